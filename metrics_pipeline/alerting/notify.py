"""Delivers messages through apprise: Slack, PagerDuty, e-mail, webhooks and what else it knows, each named by a URL.

Any part of a URL may be a secret, its host included. So a destination is called by its number and its service.
"""

import logging
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.message import Message

ATTEMPTS = 2
WAIT_SECONDS = 0.5
TIMEOUT_SECONDS = 5.0
"""For each connect and each read. Services answer within a second; one that does not is tried again."""
LIMIT_SECONDS = 20.0
"""For all destinations together. Dagster kills a tick after a minute; the next tick would send the same messages."""
MAX_DESTINATIONS = 20
_PROBLEM_LIMIT_CHARACTERS = 200
_OPENING_ONLY = ("pagerduty://",)
"""Services that open an incident for each message: "resolved" would open another one."""
_TYPES = {Severity.CRITICAL: "failure", Severity.WARNING: "warning", None: "success"}


class _Said(logging.Filter):
    """Keeps apprise's log lines, by thread, and lets none through: they name hosts, paths and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            self._lines.value = record.getMessage()
        return False

    def take(self) -> str:
        """The last line that was logged in this thread."""
        line = str(getattr(self._lines, "value", ""))
        self._lines.value = ""
        return line


_said = _Said()
logging.getLogger("apprise").addFilter(_said)
# At DEBUG it logs the path of every request, and a webhook's path is its secret.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of a message at one destination; `problem` is one line without secrets, None if it arrived."""

    destination: str
    problem: str | None = None


def deliver(message: Message, urls: Sequence[str], *, timeout_seconds: float = TIMEOUT_SECONDS) -> tuple[Delivery, ...]:
    """Send to every destination at once; never raises, never waits longer than LIMIT_SECONDS."""
    limit_seconds = min(ATTEMPTS * 3 * timeout_seconds + WAIT_SECONDS * ATTEMPTS, LIMIT_SECONDS)
    served = dict(enumerate(urls[:MAX_DESTINATIONS], start=1))
    told: dict[int, Delivery] = {}

    def send(number: int, url: str) -> None:
        try:
            told[number] = _send(message, number, url, timeout_seconds)
        except Exception as error:  # noqa: BLE001 - a broken plugin must not break the other destinations
            told[number] = Delivery(f"destination {number}", _clean(f"{type(error).__name__}: {error}", url))

    # Daemon threads keep no process alive: some services' libraries know no timeout.
    threads = [threading.Thread(target=send, args=one, name=f"notify-{one[0]}", daemon=True) for one in served.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + limit_seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = "did not take the message in time"
    deliveries = [told.get(number, Delivery(f"destination {number}", late)) for number in served]
    if len(urls) > MAX_DESTINATIONS:
        deliveries.append(
            Delivery(f"destinations {MAX_DESTINATIONS + 1} to {len(urls)}", f"at most {MAX_DESTINATIONS} are served")
        )
    return tuple(deliveries)


def _send(message: Message, number: int, url: str, timeout_seconds: float) -> Delivery:
    # Loaded when it is needed: the import takes 0.2 core-seconds, which every drain run would pay.
    from apprise import Apprise, NotifyBase, NotifyFormat, NotifyType  # noqa: PLC0415

    plugin = Apprise.instantiate(url, suppress_exceptions=True)
    if not isinstance(plugin, NotifyBase):
        return Delivery(
            f"destination {number}",
            "not an address that apprise knows: check METRICS_ALERTS__DESTINATIONS (like slack://token/#channel)",
        )
    name = f"destination {number} ({plugin.service_name})"
    if message.severity is None and url.lower().startswith(_OPENING_ONLY):
        return Delivery(name)
    plugin.socket_connect_timeout = timeout_seconds
    plugin.socket_read_timeout = timeout_seconds
    sender = Apprise()
    sender.add(plugin)
    problem = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(WAIT_SECONDS)
        arrived = sender.notify(
            body=message.body,
            title=message.title,
            notify_type=NotifyType(_TYPES[message.severity]),
            body_format=NotifyFormat.TEXT,
        )
        problem = _said.take()
        if arrived:
            return Delivery(name)
    return Delivery(name, _clean(problem, url) or "refused the message")


def _clean(text: str, url: str) -> str:
    """One short line of a library's words, without any piece of the URL."""
    line = " ".join(text.split())
    pieces = {piece for piece in re.split(r"[:/@?&=#,]+", url.partition("://")[2]) if len(piece) > 3}
    for piece in sorted({*pieces, *map(unquote, pieces)}, key=len, reverse=True):
        line = line.replace(piece, "***")
    return line[:_PROBLEM_LIMIT_CHARACTERS]
