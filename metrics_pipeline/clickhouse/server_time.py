"""One wall clock for all that runs write down and compare: the server's. Hosts' clocks may be hours apart."""

from dataclasses import dataclass

from clickhouse_connect.driver.client import Client

from metrics_pipeline.clickhouse.query import query_rows
from metrics_pipeline.runtime.ports import Clock


@dataclass(frozen=True, slots=True)
class ServerClock:
    """A `Clock` whose wall clock was `server_ms` when the host's monotonic one was `asked_at_seconds`."""

    host: Clock
    server_ms: int
    asked_at_seconds: float

    def monotonic_seconds(self) -> float:
        return self.host.monotonic_seconds()

    def now_ms(self) -> int:
        return self.server_ms + round(1_000 * self._passed_seconds())

    def now_ns(self) -> int:
        """Epoch nanoseconds, for numbers that no two writers may share."""
        return self.server_ms * 1_000_000 + round(1_000_000_000 * self._passed_seconds())

    def sleep(self, seconds: float) -> None:
        self.host.sleep(seconds)

    def _passed_seconds(self) -> float:
        return self.host.monotonic_seconds() - self.asked_at_seconds


def server_clock(client: Client, host: Clock) -> ServerClock:
    """Ask the server for its time. The error is at most half of what the answer took."""
    before_seconds = host.monotonic_seconds()
    rows = query_rows(client, "asking the server for its time", "SELECT toUnixTimestamp64Milli(now64(3))")
    return ServerClock(host, int(rows[0][0]), (before_seconds + host.monotonic_seconds()) / 2)
