"""TLS in front of a server that speaks none: what a load balancer or a sidecar is."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

_CHUNK_BYTES = 1 << 16


@contextlib.contextmanager
def tls_proxy(upstream: tuple[str, int], certificate: Path, key: Path, client_authority: Path | None) -> Iterator[int]:
    """The port of a proxy that ends TLS; with a client authority, it wants certificates that this one signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_authority is not None:
        context.load_verify_locations(client_authority)
        context.verify_mode = ssl.CERT_REQUIRED

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(30)
            with (
                contextlib.suppress(OSError),
                context.wrap_socket(self.request, server_side=True, do_handshake_on_connect=False) as outside,
                socket.create_connection(upstream, timeout=30) as inside,
            ):
                try:
                    outside.do_handshake()
                except ssl.SSLError:
                    # What the peer sent meanwhile has to be taken, else the alert is lost with the connection.
                    while socket.socket.recv(outside, _CHUNK_BYTES):
                        pass
                    raise
                back = threading.Thread(target=_pump, args=(inside, outside), daemon=True)
                back.start()
                _pump(outside, inside)
                back.join(30)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connection) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
