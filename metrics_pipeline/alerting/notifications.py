"""Which notifications to send, given what is wrong now and what people were notified of before. Pure.

    (nothing) ─ wrong ─► pending ─ held for a while ─► firing ─ healthy for a while ─► resolved
                            └─ healthy ─► (nothing)      └─ every few hours: notified again

People are notified once per problem, not once per retry. A problem that comes back again and again must be healthy ever
longer before it is called resolved, so a flapping problem is one notification. All notifications of a moment are one
message. Messages per hour are limited. A notification that may not be sent, or could not, stays unsent and goes with a
later message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.rules import Alert, Judgement
from metrics_pipeline.runtime.timerange import HOUR_SECONDS
from metrics_pipeline.settings import AlertSettings

MESSAGES_PER_HOUR = 20
"""A channel stays readable: a message holds all that is due, so more of them would say no more."""
QUIET_FACTOR = 2
"""A problem must be gone for twice as long as it had to last: an end is less urgent than a beginning."""
FLAPPING_SECONDS = 21_600
"""A problem that comes back within a shift of six hours is the same problem to whoever is on call."""
FORGET_SECONDS = 172_800
"""A problem of which nothing more is heard, of a job that was renamed, say, is closed after a weekend."""
MAX_DOUBLINGS = 5
MAX_STATES = 1_000


class Phase(StrEnum):
    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Notification(StrEnum):
    FIRING = "firing"
    AGAIN = "still firing"
    RESOLVED = "resolved"
    FORGOTTEN = "not heard of any more"


@dataclass(frozen=True, slots=True)
class AlertState:
    """What is known about one problem. Times are epoch seconds.

    `since` is when the phase began, `seen` when the problem was last there, `starts` when it began firing lately.
    `notified` is when people were last notified (0: never), `notified_as` of what, and `unsent` is the notification
    that is still to be sent.
    """

    alert: Alert
    phase: Phase
    since: float
    seen: float
    notified: float = 0
    notified_as: Notification | None = None
    starts: tuple[float, ...] = ()
    unsent: Notification | None = None

    @property
    def is_open_to_people(self) -> bool:
        """People know that it is there, and not yet that it is gone."""
        return self.notified_as in (Notification.FIRING, Notification.AGAIN)


@dataclass(frozen=True, slots=True)
class AlertStates:
    """What must be remembered from one evaluation to the next.

    `sent` is when messages went out within the hour. `evaluated` is when the states were last written, None if never.
    """

    states: Mapping[str, AlertState] = field(default_factory=dict)
    sent: tuple[float, ...] = ()
    evaluated: float | None = None

    @property
    def firing(self) -> tuple[AlertState, ...]:
        """The worst first."""
        firing = (s for s in self.states.values() if s.phase is Phase.FIRING)
        return tuple(sorted(firing, key=lambda s: s.alert.urgency))


def advance(alert_states: AlertStates, judgement: Judgement, now: float, settings: AlertSettings) -> AlertStates:
    """The alert states after this judgement; what is due is `unsent` in them."""
    wrong = {alert.key: alert for alert in judgement.alerts}
    states = {key: _wrong(alert_states.states.get(key), alert, now, settings) for key, alert in wrong.items()}
    for key, before in alert_states.states.items():
        if key not in wrong:
            state = _healthy(before, now, settings) if judgement.is_healthy(key) else _unknown(before, now)
            if state is not None:
                states[key] = state
    recent = tuple(t for t in alert_states.sent if now - t < HOUR_SECONDS)
    return AlertStates(_bounded(states), recent)


def due(alert_states: AlertStates, now: float) -> tuple[AlertState, ...]:
    """What the next message says, the worst first; nothing once the hour's messages went out."""
    if sum(now - t < HOUR_SECONDS for t in alert_states.sent) >= MESSAGES_PER_HOUR:
        return ()
    order = list(Notification)
    unsent = ((order.index(s.unsent), s.alert.urgency, s) for s in alert_states.states.values() if s.unsent is not None)
    return tuple(state for _, _, state in sorted(unsent))


def notified(alert_states: AlertStates, notifications: Sequence[AlertState], now: float) -> AlertStates:
    """The alert states after a message with these notifications went out."""
    states = dict(alert_states.states)
    for notification in notifications:
        states[notification.alert.key] = replace(
            states[notification.alert.key], notified=now, notified_as=notification.unsent, unsent=None
        )
    return AlertStates(states, (*alert_states.sent, now) if notifications else alert_states.sent)


def _wrong(before: AlertState | None, alert: Alert, now: float, settings: AlertSettings) -> AlertState:
    if before is None:
        before = AlertState(alert, Phase.PENDING, now, now)
    elif before.phase is Phase.RESOLVED:
        before = replace(before, alert=alert, phase=Phase.PENDING, since=now)
    state = replace(before, alert=alert, seen=now, starts=_recent(before.starts, now))
    if state.phase is Phase.PENDING:
        if now - state.since < (settings.pending_seconds if alert.about.is_state else 0):
            return state
        return replace(state, phase=Phase.FIRING, starts=(*state.starts, now), unsent=Notification.FIRING)
    is_worse = alert.severity is Severity.CRITICAL and before.alert.severity is not Severity.CRITICAL
    if state.unsent is None and (is_worse or now - state.notified >= settings.repeat_seconds):
        return replace(state, unsent=Notification.AGAIN)
    return state


def _healthy(before: AlertState, now: float, settings: AlertSettings) -> AlertState | None:
    starts = _recent(before.starts, now)
    if before.phase is Phase.RESOLVED:
        # Remembered starts show that a problem which comes back is flapping.
        return replace(before, starts=starts) if starts or before.unsent else None
    if before.phase is Phase.PENDING:
        if not starts and before.unsent is None:
            return None
        return replace(before, phase=Phase.RESOLVED, starts=starts)
    if now - before.seen < _quiet_seconds(before, QUIET_FACTOR * settings.pending_seconds):
        return replace(before, starts=starts)
    return _closed(before, Notification.RESOLVED, now, starts)


def _unknown(before: AlertState, now: float) -> AlertState | None:
    if now - before.seen < FORGET_SECONDS:
        return before
    if before.phase is not Phase.FIRING:
        return before if before.unsent is not None else None
    return _closed(before, Notification.FORGOTTEN, now, ())


def _closed(before: AlertState, notification: Notification, now: float, starts: tuple[float, ...]) -> AlertState:
    """People who do not know of the problem need not hear of its end."""
    unsent = notification if before.is_open_to_people else None
    return replace(before, phase=Phase.RESOLVED, since=now, starts=starts, unsent=unsent)


def _quiet_seconds(state: AlertState, once: float) -> float:
    """How long it must be healthy: not at all for an event, and twice as long for each time that it came back."""
    came_back = max(0, len(state.starts) - 1)
    if not came_back:
        return once if state.alert.about.is_state else 0
    return once * float(1 << min(came_back, MAX_DOUBLINGS))


def _recent(starts: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(t for t in starts if now - t < FLAPPING_SECONDS)[-2 * MAX_DOUBLINGS :]


def _bounded(states: dict[str, AlertState]) -> dict[str, AlertState]:
    """The newest MAX_STATES, those that fire first: memory and messages stay bounded whatever goes wrong."""
    newest = sorted(states.items(), key=lambda item: (item[1].phase is not Phase.FIRING, -item[1].seen, item[0]))
    return dict(newest[:MAX_STATES])
