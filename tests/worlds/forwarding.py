"""Connections passed on: what a load balancer or a sidecar does."""

import contextlib
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

_CHUNK_BYTES = 1 << 16

Connect = Callable[[], socket.socket]


@contextlib.contextmanager
def forwarder(connect: Connect) -> Iterator[int]:
    """The port of a listener whose connections go on as `connect` makes them."""
    with _serving(contextlib.nullcontext, connect) as port:
        yield port


@contextlib.contextmanager
def tls_proxy(connect: Connect, certificate: Path, key: Path, client_authority: Path | None) -> Iterator[int]:
    """One that ends TLS; with a client authority, it wants certificates that this one signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if client_authority is not None:
        context.load_verify_locations(client_authority)
        context.verify_mode = ssl.CERT_REQUIRED

    def secured(request: socket.socket) -> socket.socket:
        outside = context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        try:
            outside.do_handshake()
        except ssl.SSLError:
            # What the peer sent meanwhile has to be taken, else the alert is lost with the connection.
            while socket.socket.recv(outside, _CHUNK_BYTES):
                pass
            outside.close()
            raise
        return outside

    with _serving(secured, connect) as port:
        yield port


def tcp(host: str, port: int) -> Connect:
    return lambda: socket.create_connection((host, port), timeout=30)


def unix(path: Path) -> Connect:
    def connect() -> socket.socket:
        made = socket.socket(socket.AF_UNIX)
        made.connect(str(path))
        return made

    return connect


@contextlib.contextmanager
def _serving(
    accept: Callable[[socket.socket], contextlib.AbstractContextManager[socket.socket]], connect: Connect
) -> Iterator[int]:
    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError), accept(self.request) as outside, connect() as inside:
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
