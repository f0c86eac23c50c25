"""Which notices to send, given what is wrong now and what was told before. Pure.

    (nothing) ─ wrong ─► pending ─ held for a while ─► firing ─ healthy for a while ─► resolved
                            └─ healthy ─► (nothing)      └─ every few hours: told again

One notice per problem, not per retry. A problem that comes back again and again must be healthy ever longer before it
is called resolved, so a flapping one is told once. All notices of a moment go out as one message, and messages are
limited per hour; what may not be sent, or could not, is deferred and goes with a later one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from metrics_pipeline.alerting.rules import KINDS, Alert, Judgement, Severity

_HOUR_SECONDS = 3_600
MAX_DOUBLINGS = 5
MAX_STATES = 1_000


class Phase(StrEnum):
    """Where a problem stands."""

    PENDING = "pending"
    FIRING = "firing"
    RESOLVED = "resolved"


class Notification(StrEnum):
    """What people are told."""

    FIRING = "firing"
    AGAIN = "still firing"
    RESOLVED = "resolved"
    FORGOTTEN = "not heard of any more"


@dataclass(frozen=True, slots=True)
class NoticePolicy:
    """When people are told; see `AlertSettings` for what each one is."""

    pending_seconds: float
    resolve_seconds: float
    repeat_seconds: float
    flapping_seconds: float
    forget_seconds: float
    messages_per_hour: int


@dataclass(frozen=True, slots=True)
class AlertState:
    """What is known about one problem. Times are epoch seconds.

    `since` is when it began, `seen` when it was last there, `told` when the last notice went out (0: none did) and
    `notified_as` which one that was, `starts` when it began firing lately. `unsent` is the notice that is still to be
    sent.
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
        """They were told that it is there, and not yet that it is gone."""
        return self.notified_as in (Notification.FIRING, Notification.AGAIN)


@dataclass(frozen=True, slots=True)
class AlertStates:
    """Everything that must be remembered from one evaluation to the next; `sent` is when messages went out lately."""

    states: Mapping[str, AlertState] = field(default_factory=dict)
    sent: tuple[float, ...] = ()

    @property
    def firing(self) -> tuple[AlertState, ...]:
        """The worst first."""
        firing = [s for s in self.states.values() if s.phase is Phase.FIRING]
        return tuple(sorted(firing, key=lambda s: (s.alert.severity is not Severity.CRITICAL, s.alert.key)))


def advance(alert_states: AlertStates, judgement: Judgement, now: float, policy: NoticePolicy) -> AlertStates:
    """The board after this judgement; notices that are due are deferred on it."""
    wrong = {alert.key: alert for alert in judgement.alerts}
    states: dict[str, AlertState] = {}
    for key in sorted({*alert_states.states, *wrong}):
        before = alert_states.states.get(key)
        if key in wrong:
            state: AlertState | None = _wrong(before, wrong[key], now, policy)
        elif before is None:
            state = None
        elif judgement.is_healthy(key):
            state = _healthy(before, now, policy)
        else:
            state = _unknown(before, now, policy)
        if state is not None:
            states[key] = state
    recent = tuple(t for t in alert_states.sent if now - t < _HOUR_SECONDS)
    return AlertStates(_bounded(states), recent)


def due(alert_states: AlertStates, now: float, policy: NoticePolicy) -> tuple[AlertState, ...]:
    """What the next message says, the worst first; nothing while the limit of messages per hour is reached."""
    if sum(now - t < _HOUR_SECONDS for t in alert_states.sent) >= policy.messages_per_hour:
        return ()
    owing = [s for s in alert_states.states.values() if s.unsent is not None]
    order = list(Notification)
    return tuple(
        sorted(
            owing,
            key=lambda s: (
                order.index(s.unsent or Notification.FIRING),
                s.alert.severity is not Severity.CRITICAL,
                s.alert.key,
            ),
        )
    )


def notified(alert_states: AlertStates, notifications: Sequence[AlertState], now: float) -> AlertStates:
    """The board after a message with these notices went out."""
    states = dict(alert_states.states)
    for notification in notifications:
        states[notification.alert.key] = replace(
            states[notification.alert.key], notified=now, notified_as=notification.unsent, unsent=None
        )
    return AlertStates(states, (*alert_states.sent, now) if notifications else alert_states.sent)


def _wrong(before: AlertState | None, alert: Alert, now: float, policy: NoticePolicy) -> AlertState:
    starts = _recent(before.starts if before else (), now, policy)
    if before is None or before.phase is Phase.RESOLVED:
        begun = AlertState(alert, Phase.PENDING, now, now)
        if before is not None:
            begun = replace(before, alert=alert, phase=Phase.PENDING, since=now, seen=now, starts=starts)
        return _wrong(begun, alert, now, policy)
    if before.phase is Phase.PENDING:
        hold = policy.pending_seconds if KINDS[alert.kind].is_state else 0
        state = replace(before, alert=alert, seen=now, starts=starts)
        if now - before.since < hold:
            return state
        return replace(state, phase=Phase.FIRING, starts=(*starts, now), unsent=Notification.FIRING)
    unsent = before.unsent
    if unsent is None:
        is_worse = alert.severity is Severity.CRITICAL and before.alert.severity is not Severity.CRITICAL
        unsent = Notification.AGAIN if is_worse or now - before.notified >= policy.repeat_seconds else None
    return replace(before, alert=alert, seen=now, starts=starts, unsent=unsent)


def _healthy(before: AlertState, now: float, policy: NoticePolicy) -> AlertState | None:
    starts = _recent(before.starts, now, policy)
    if before.phase is Phase.RESOLVED:
        # Its starts are remembered, so that one that comes back is known to flap.
        return replace(before, starts=starts) if starts or before.unsent else None
    if before.phase is Phase.PENDING:
        if not starts and before.unsent is None:
            return None
        return replace(before, phase=Phase.RESOLVED, starts=starts)
    if now - before.seen < _quiet_seconds(before, policy):
        return replace(before, starts=starts)
    return _closed(before, Notification.RESOLVED, now, starts)


def _unknown(before: AlertState, now: float, policy: NoticePolicy) -> AlertState | None:
    if now - before.seen < policy.forget_seconds:
        return before
    if before.phase is not Phase.FIRING:
        return before if before.unsent is not None else None
    return _closed(before, Notification.FORGOTTEN, now, ())


def _closed(before: AlertState, notification: Notification, now: float, starts: tuple[float, ...]) -> AlertState:
    """Who was never told of the problem need not be told of its end."""
    unsent = notification if before.is_open_to_people else None
    return replace(before, phase=Phase.RESOLVED, since=now, starts=starts, unsent=unsent)


def _quiet_seconds(state: AlertState, policy: NoticePolicy) -> float:
    """How long it must be healthy: at once for an event, and twice as long for each time that it came back lately."""
    came_back = max(0, len(state.starts) - 1)
    if not came_back:
        return policy.resolve_seconds if KINDS[state.alert.kind].is_state else 0
    return policy.resolve_seconds * float(1 << min(came_back, MAX_DOUBLINGS))


def _recent(starts: tuple[float, ...], now: float, policy: NoticePolicy) -> tuple[float, ...]:
    return tuple(t for t in starts if now - t < policy.flapping_seconds)[-2 * MAX_DOUBLINGS :]


def _bounded(states: dict[str, AlertState]) -> dict[str, AlertState]:
    """The newest, if there are too many: memory and messages stay bounded whatever goes wrong."""
    if len(states) <= MAX_STATES:
        return states
    newest = sorted(states.items(), key=lambda item: (item[1].phase is not Phase.FIRING, -item[1].seen))
    return dict(newest[:MAX_STATES])
