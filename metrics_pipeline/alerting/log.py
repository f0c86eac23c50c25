"""The alert states in the table alert_log, from which whichever process evaluates next goes on."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.catalogue import KINDS
from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.notifications import MAX_STATES, AlertState, AlertStates, Notification, Phase
from metrics_pipeline.alerting.rules import Alert
from metrics_pipeline.alerting.tables import ALERT_LOG
from metrics_pipeline.clickhouse.errors import calling
from metrics_pipeline.clickhouse.query import query_rows

_COLUMNS = tuple(column.name for column in ALERT_LOG.columns)
_GONE = "gone"
_READ = f"""
    SELECT key, kind, subject, severity, phase, summary, run_id, toUnixTimestamp64Milli(since),
        toUnixTimestamp64Milli(seen), toUnixTimestamp64Milli(notified), notified_as,
        arrayMap(t -> toUnixTimestamp64Milli(t), starts), unsent, toUnixTimestamp64Milli(updated_at)
    FROM {ALERT_LOG.name} FINAL
    WHERE key = '' OR phase != '{_GONE}' AND kind IN {{kinds:Array(String)}}
    ORDER BY key != '', updated_at DESC LIMIT {{limit:UInt32}}
"""
"""Kinds that this version does not know stay as they are: a later version may have written them."""


def read_alert_states(client: Client) -> AlertStates:
    """The newest state of each alert. Raises what `calling` raises."""
    rows = query_rows(client, "reading the alerts", _READ, {"limit": MAX_STATES + 1, "kinds": list(KINDS)})
    states = [_state(row) for row in rows if row[0]]
    sent, evaluated = next(((_moments(row[11]), row[13] / 1000) for row in rows if not row[0]), ((), None))
    return AlertStates({state.alert.key: state for state in states}, sent, evaluated)


def write_alert_states(client: Client, before: AlertStates, after: AlertStates, now: float) -> None:
    """Append the states that differ from `before`, and the time of this evaluation, `now` (epoch seconds)."""
    changed = [_row(s, now) for key, s in after.states.items() if before.states.get(key) != s]
    gone = [_row(s, now, phase=_GONE) for key, s in before.states.items() if key not in after.states]
    epoch, sent = _time(0), [_time(moment) for moment in after.sent]
    evaluated = ["", "", "", "", "", "", "", epoch, epoch, epoch, "", sent, "", _time(now)]
    rows = [*changed, *gone, evaluated]
    calling("noting the alerts", lambda: client.insert(ALERT_LOG.name, rows, column_names=_COLUMNS))


def _state(row: Sequence[Any]) -> AlertState:
    _, kind, subject, severity, phase, summary, run_id, since, seen, notified, notified_as, starts, unsent, _ = row
    return AlertState(
        Alert(kind, subject, Severity(severity), summary, run_id),
        Phase(phase),
        since / 1000,
        seen / 1000,
        notified / 1000,
        Notification(notified_as) if notified_as else None,
        _moments(starts),
        Notification(unsent) if unsent else None,
    )


def _row(state: AlertState, now: float, *, phase: str = "") -> list[Any]:
    alert = state.alert
    return [
        alert.key,
        alert.kind,
        alert.subject,
        alert.severity.value,
        phase or state.phase.value,
        alert.summary,
        alert.run_id,
        *(_time(moment) for moment in (state.since, state.seen, state.notified)),
        state.notified_as or "",
        [_time(moment) for moment in state.starts],
        state.unsent or "",
        _time(now),
    ]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _moments(milliseconds: Sequence[int]) -> tuple[float, ...]:
    return tuple(moment / 1000 for moment in milliseconds)
