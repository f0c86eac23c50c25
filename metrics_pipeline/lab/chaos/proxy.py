"""An HTTP proxy in front of ClickHouse that can misbehave in each way that a network or a server can.

It passes requests on as they are until a fault puts a `Misbehaviour` in place for some of them.
"""

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple, cast
from urllib.parse import parse_qs, urlsplit

from metrics_pipeline.clickhouse.errors import CONFIGURATION_CODES, TRANSIENT_CODES

UPSTREAM_SECONDS = 60.0
_STATEMENT_BYTES = 500
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Request(NamedTuple):
    """A whole request, its body included."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def statement(self) -> str:
        """The beginning of the SQL, which is in the address or at the head of the body."""
        query = parse_qs(urlsplit(self.target).query).get("query", [""])[0]
        return query + self.body[:_STATEMENT_BYTES].decode(errors="replace")

    def is_insert(self) -> bool:
        return self.statement.startswith("INSERT INTO ")


Matches = Callable[[Request], bool]


def inserts_into(table: str) -> Matches:
    return lambda request: request.is_insert() and request.statement.split()[2].strip("`") == table


class Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def error_answer(code: int) -> Answer:
    """What a server says when it fails with this code."""
    name = (TRANSIENT_CODES | CONFIGURATION_CODES)[code]
    body = f"Code: {code}. DB::Exception: Injected: it is as if this had happened. ({name})\n"
    headers = (("X-ClickHouse-Exception-Code", str(code)), ("Content-Type", "text/plain; charset=UTF-8"))
    return Answer(500, headers, body.encode())


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request on its way; a misbehaviour decides what becomes of it."""

    request: Request
    _proxy: "Proxy"

    def forward(self, when_sent: Callable[[], None] = lambda: None) -> Answer:
        """Let the server answer; `when_sent` is called when it has the whole request. Raises OSError, HTTPException."""
        with self._sent(self.request.body) as connection:
            when_sent()
            answer = connection.getresponse()
            self._proxy.note(answer.getheader("X-ClickHouse-Exception-Code"))
            return Answer(answer.status, tuple(answer.getheaders()), answer.read())

    def break_off(self, share: float) -> None:
        """Give the server only this share of the body, then hang up on it."""
        body = self.request.body
        # Half of a request must arrive as such, not as a connection that never was.
        with self._sent(body[: int(len(body) * share)]) as connection, suppress(OSError):
            connection.sock.shutdown(socket.SHUT_WR)

    @contextmanager
    def _sent(self, body: bytes) -> Iterator[http.client.HTTPConnection]:
        request = self.request
        headers = {name: value for name, value in request.headers if name.lower() not in _HOP_BY_HOP}
        headers["Content-Length"] = str(len(request.body))
        with closing(self._proxy.connect()) as connection:
            connection.request(request.method, request.target, body, headers)
            yield connection


Misbehaviour = Callable[[Exchange], Answer | None]
"""Makes the answer to a request; None hangs up on the client."""


@dataclass(slots=True)
class Rule:
    """Which requests get a misbehaviour, and how many did."""

    matches: Matches
    misbehave: Misbehaviour
    count: int = 0


class Proxy:
    """Serves on a free port of the loopback interface until it is closed."""

    def __init__(self, server_url: str) -> None:
        self._upstream = urlsplit(server_url)
        self._rule: Rule | None = None
        self._lock = threading.Lock()
        self.errors: Counter[int] = Counter()
        """Code -> how often the server itself has failed with it."""
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.proxy = self
        threading.Thread(target=self._server.serve_forever, name="proxy", daemon=True).start()
        user, at, _ = self._upstream.netloc.rpartition("@")
        self.url = f"http://{user}{at}127.0.0.1:{self._server.server_port}{self._upstream.path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def misbehaving(self, matches: Matches, misbehaviour: Misbehaviour) -> Iterator[Rule]:
        """Within, requests that match get `misbehaviour`; one at a time."""
        rule = Rule(matches, misbehaviour)
        with self._lock:
            if self._rule is not None:
                raise RuntimeError("the proxy misbehaves already")
            self._rule = rule
        try:
            yield rule
        finally:
            self._rule = None

    def answer(self, request: Request) -> Answer | None:
        """The answer for the client, or None to hang up."""
        exchange, rule = Exchange(request, self), self._rule
        try:
            if rule is None or not rule.matches(request):
                return exchange.forward()
            rule.count += 1
            return rule.misbehave(exchange)
        except (OSError, http.client.HTTPException):
            # The server is gone, or broke its answer off: so does the client see it.
            return None

    def connect(self) -> http.client.HTTPConnection:
        https = http.client.HTTPSConnection, 8443
        kind, port = https if self._upstream.scheme == "https" else (http.client.HTTPConnection, 8123)
        return kind(self._upstream.hostname or "", self._upstream.port or port, timeout=UPSTREAM_SECONDS)

    def note(self, code: str | None) -> None:
        if code is not None:
            with self._lock:
                self.errors[int(code)] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed in the middle of a request is nothing to write about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def _serve(self) -> None:
        request = Request(self.command, self.path, tuple(self.headers.items()), self._body())
        answer = cast("_Server", self.server).proxy.answer(request)
        if answer is None:
            self.close_connection = True
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)
        self.wfile.flush()

    do_GET = do_POST = do_HEAD = _serve  # noqa: N815 - names that the base class calls

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks: list[bytes] = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the base class names it so
        """Nothing: a line per request would drown the faults."""
