"""The words of a message: what happened, what it means, what to do. Pure. A message is bounded whatever is wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.notifications import AlertState, Notification
from metrics_pipeline.settings import AlertSettings

TITLE_LIMIT_CHARACTERS = 150
BODY_LIMIT_CHARACTERS = 3_500
"""Chat services cut or refuse longer messages. The last line counts what was left out."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to people. `severity` is None where every problem in it is over."""

    title: str
    body: str
    severity: Severity | None


def compose(notifications: Sequence[AlertState], settings: AlertSettings) -> Message:
    """One message for all notifications, in their order."""
    open_ones = [n for n in notifications if n.unsent in (Notification.FIRING, Notification.AGAIN)]
    severity = min((n.alert.severity for n in open_ones), key=lambda s: s is not Severity.CRITICAL, default=None)
    return Message(_title(notifications, severity), _body([_paragraph(n, settings) for n in notifications]), severity)


def _title(notifications: Sequence[AlertState], severity: Severity | None) -> str:
    first = notifications[0]
    more = f", and {len(notifications) - 1} more" if len(notifications) > 1 else ""
    word = severity.value if severity else "resolved"
    title = f"metrics-pipeline {word}: {first.alert.about.title} ({first.alert.subject}){more}"
    return title if len(title) <= TITLE_LIMIT_CHARACTERS else title[: TITLE_LIMIT_CHARACTERS - 1] + "…"


def _body(paragraphs: Sequence[str]) -> str:
    kept: list[str] = []
    room = BODY_LIMIT_CHARACTERS - 100
    for paragraph in paragraphs:
        room -= len(paragraph) + 2
        if room < 0:
            kept.append(f"{len(paragraphs) - len(kept)} more: metrics-pipeline alerts status")
            break
        kept.append(paragraph)
    return "\n\n".join(kept)


def _paragraph(state: AlertState, settings: AlertSettings) -> str:
    alert = state.alert
    if state.unsent is Notification.RESOLVED:
        return f"resolved: {alert.about.title}. It was: {alert.summary}"
    if state.unsent is Notification.FORGOTTEN:
        return f"closed, since nothing more was heard of it: {alert.summary}"
    lines = [f"{alert.severity.value}: {alert.summary}"]
    if state.unsent is Notification.AGAIN:
        lines.append(f"It lasts since {datetime.fromtimestamp(state.since, UTC):%Y-%m-%d %H:%M} UTC.")
    if len(state.starts) > 1:
        lines.append(f'It came back {len(state.starts) - 1} times lately; "resolved" waits the longer for it.')
    lines.append(alert.about.meaning)
    if alert.run_id and settings.dagster_url:
        lines.append(f"Look at: {settings.dagster_url.rstrip('/')}/runs/{alert.run_id}")
    lines.append(f"Run: {alert.about.command}")
    lines.append(f"Run book: {settings.runbook_url.rstrip('/')}/{alert.about.runbook}")
    return "\n".join(lines)
