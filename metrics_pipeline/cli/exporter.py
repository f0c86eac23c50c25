"""`exporter`: figures for Prometheus."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from prometheus_client import CollectorRegistry, start_http_server

from metrics_pipeline.cli.working import stop_on_signal
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.metrics.catalogue import markdown_table
from metrics_pipeline.metrics.collector import PipelineCollector
from metrics_pipeline.settings import Settings, load_settings

_CHECK_SECONDS = 1.0

app = typer.Typer()


@app.command(epilog="Example: metrics-pipeline exporter --port 9464")
def exporter(
    port: int = typer.Option(9_464, min=0, max=65_535, help="Port to listen on; 0: any that is free."),
    host: str = typer.Option("127.0.0.1", help="Address to listen on; 0.0.0.0 for all."),
    names: bool = typer.Option(False, "--names", help="Print what is served, as Markdown, and end."),
) -> None:
    """Serve lag, rates, freshness, sizes and alerts at /metrics, for Prometheus, until Ctrl-C or SIGTERM.

    Figures are read when they are scraped, at most every five seconds. An engine that doesn't answer is `up` 0, and the
    figures of the others are served.
    """
    if names:
        typer.echo(markdown_table())
        return
    with stop_on_signal() as stop, serving(load_settings(), host, port) as url:
        typer.echo(url)
        # Woken up now and then: a signal alone does not end a wait everywhere.
        while not stop.wait(_CHECK_SECONDS):
            pass


@contextmanager
def serving(settings: Settings, host: str, port: int) -> Iterator[str]:
    """Serves while it is open; gives the address. Raises ConfigurationError if the port is taken."""
    collector = PipelineCollector(settings)
    threading.Thread(target=collector.warm_up, name="warm-up", daemon=True).start()
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigurationError(f"can't listen on {host}:{port}: {error.strerror}: name another --port") from error
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        collector.close()
