"""Servers on free ports: places that notifications go to, and one that never says anything."""

import email
import email.policy
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from metrics_pipeline.lab.local.process import choose_port


@dataclass
class HttpReceiver:
    """What was posted; `status` is what it answers."""

    url: str = ""
    status: int = 200
    received: list[dict[str, Any]] = field(default_factory=list)
    attempts: int = 0

    @property
    def titles(self) -> list[str]:
        return [posted["title"] for posted in self.received]


@contextmanager
def http_receiver(path: str = "") -> Iterator[HttpReceiver]:
    """A webhook; `url` is its address for apprise."""
    receiver = HttpReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.attempts += 1
            if receiver.status == 200:
                receiver.received.append(json.loads(body))
            self.send_response(receiver.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    receiver.url = f"json://127.0.0.1:{server.server_port}{path}"
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class SmtpReceiver:
    url: str = ""
    received: list[EmailMessage] = field(default_factory=list)


@contextmanager
def smtp_receiver() -> Iterator[SmtpReceiver]:
    """A mail server that takes everything."""
    receiver = SmtpReceiver()

    class Handler:
        async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: N802
            parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
            assert isinstance(parsed, EmailMessage)
            receiver.received.append(parsed)
            return "250 OK"

    port = choose_port(None)
    controller = Controller(Handler(), hostname="127.0.0.1", port=port)
    controller.start()
    receiver.url = f"mailto://127.0.0.1:{port}/?from=pipeline@example.com&to=oncall@example.com"
    try:
        yield receiver
    finally:
        controller.stop()


@contextmanager
def silent_address() -> Iterator[str]:
    """HOST:PORT where connections are accepted and never answered."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"127.0.0.1:{silent.getsockname()[1]}"
