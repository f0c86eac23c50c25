"""Who is notified of what when: the state machine of alerts, and the words of its messages."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from pydantic import TypeAdapter

from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.message import BODY_LIMIT_CHARACTERS, TITLE_LIMIT_CHARACTERS, compose
from metrics_pipeline.alerting.notifications import (
    FORGET_SECONDS,
    MAX_STATES,
    MESSAGES_PER_HOUR,
    AlertState,
    AlertStates,
    Notification,
    Phase,
    advance,
    due,
    notified,
)
from metrics_pipeline.alerting.rules import Alert, Judgement
from metrics_pipeline.settings import AlertSettings

SETTINGS = AlertSettings(pending_seconds=60, repeat_seconds=3_600)
LAG = Alert("lag", "events", Severity.WARNING, "events: 5,000 offsets behind")
RUN = Alert("failed_runs", "drain 0-of-1", Severity.CRITICAL, "drain 0-of-1: the last run failed", "run-1")
KNOWN = frozenset({"lag", "failed_runs"})
LINKS = AlertSettings(dagster_url="http://dagster:3000/", runbook_url="docs/runbooks")


@dataclass
class World:
    """Evaluates every 30 s, and keeps what people heard as (seconds, notification, key)."""

    alert_states: AlertStates = field(default_factory=AlertStates)
    now: float = 1_000_000.0
    heard: list[tuple[float, Notification | None, str]] = field(default_factory=list)
    reachable: bool = True

    def tick(self, *alerts: Alert, known: frozenset[str] = KNOWN, times: int = 1) -> None:
        for _ in range(times):
            self.alert_states = advance(self.alert_states, Judgement(alerts, known), self.now, SETTINGS)
            notifications = due(self.alert_states, self.now)
            if notifications and self.reachable:
                self.alert_states = notified(self.alert_states, notifications, self.now)
                self.heard += [(self.now - 1_000_000, n.unsent, n.alert.key) for n in notifications]
            self.now += 30

    @property
    def notifications(self) -> list[Notification | None]:
        return [notification for _, notification, _ in self.heard]


def test_a_state_must_last_to_notify_and_be_gone_for_a_while_to_be_resolved() -> None:
    world = World()
    world.tick(LAG, times=6)
    assert world.heard == [(60, Notification.FIRING, LAG.key)]
    world.tick(times=6)
    assert world.heard[1:] == [(270, Notification.RESOLVED, LAG.key)]
    world.tick(times=1_000)
    assert len(world.heard) == 2
    assert world.alert_states.states == {}


def test_a_blip_notifies_nobody() -> None:
    world = World()
    for _ in range(50):
        world.tick(LAG)
        world.tick()
    assert world.heard == []


def test_a_failed_run_notifies_at_once_once_per_problem_and_is_resolved_at_once() -> None:
    world = World()
    world.tick(RUN, times=20)
    assert world.heard == [(0, Notification.FIRING, RUN.key)]
    world.tick()
    assert world.notifications == [Notification.FIRING, Notification.RESOLVED]


def test_what_lasts_notifies_again_after_hours() -> None:
    world = World()
    world.tick(RUN, times=241)
    assert world.heard == [
        (0, Notification.FIRING, RUN.key),
        (3_600, Notification.AGAIN, RUN.key),
        (7_200, Notification.AGAIN, RUN.key),
    ]


def test_what_gets_worse_notifies_at_once() -> None:
    world = World()
    world.tick(LAG, times=4)
    worse = Alert(LAG.kind, LAG.subject, Severity.CRITICAL, "worse")
    world.tick(worse, times=4)
    assert world.notifications == [Notification.FIRING, Notification.AGAIN]


def test_a_flapping_problem_notifies_ever_less_often() -> None:
    world = World()
    for _ in range(100):
        world.tick(RUN)
        world.tick()
    assert 2 <= len(world.heard) <= 8
    world.tick(times=1_000)
    assert world.notifications[-1] is Notification.RESOLVED


def test_nothing_is_concluded_while_nothing_is_known() -> None:
    world = World()
    world.tick(RUN, times=2)
    world.tick(known=frozenset(), times=100)
    assert world.notifications == [Notification.FIRING]
    world.tick()
    assert world.notifications == [Notification.FIRING, Notification.RESOLVED]


def test_what_is_never_heard_of_again_is_closed_after_days() -> None:
    world = World()
    world.tick(RUN)
    world.tick(known=frozenset(), times=FORGET_SECONDS // 30 + 2)
    assert world.notifications == [Notification.FIRING, Notification.FORGOTTEN]
    world.tick(known=frozenset(), times=FORGET_SECONDS // 30 + 2)
    assert world.alert_states.states == {}


def test_all_notifications_of_a_moment_are_one_message_the_worst_first() -> None:
    world = World()
    many = [Alert("failed_runs", f"job {n}", Severity.CRITICAL, "failed") for n in range(5)]
    world.tick(LAG, times=2)
    world.tick(LAG, *many)
    assert [key for _, _, key in world.heard] == [*(a.key for a in many), LAG.key]
    assert len(world.alert_states.sent) == 1


def test_more_messages_than_the_limit_are_held_back_and_go_out_together() -> None:
    world = World()
    alerts: list[Alert] = []
    for number in range(MESSAGES_PER_HOUR + 5):
        alerts.append(Alert("failed_runs", f"job {number}", Severity.CRITICAL, "failed"))
        world.tick(*alerts)
    assert len(world.heard) == MESSAGES_PER_HOUR
    world.tick(*alerts, times=110)
    first = [(at, key) for at, notification, key in world.heard if notification is Notification.FIRING]
    assert sorted(key for _, key in first[MESSAGES_PER_HOUR:]) == sorted(a.key for a in alerts[MESSAGES_PER_HOUR:])
    assert len({at for at, _ in first}) == MESSAGES_PER_HOUR + 1


def test_what_could_not_be_sent_stays_unsent_and_goes_later() -> None:
    world = World(reachable=False)
    world.tick(RUN, times=5)
    world.reachable = True
    world.tick(RUN)
    assert world.heard == [(150, Notification.FIRING, RUN.key)]


def test_who_never_heard_of_a_problem_does_not_hear_of_its_end() -> None:
    world = World(reachable=False)
    world.tick(RUN, times=5)
    world.tick(times=5)
    world.reachable = True
    world.tick(times=5)
    assert world.heard == []


def test_an_end_that_could_not_be_sent_is_sent_though_the_problem_came_and_went_meanwhile() -> None:
    world = World()
    world.tick(RUN)
    world.reachable = False
    world.tick(times=2)
    world.tick(RUN, times=2)
    world.tick(times=40)
    world.reachable = True
    world.tick(times=5)
    assert world.notifications == [Notification.FIRING, Notification.RESOLVED]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_people_hear_of_begin_and_end_in_turn_and_within_the_limit(seed: int) -> None:
    random_ = random.Random(seed)
    world = World()
    for _ in range(2_000):
        world.reachable = random_.random() < 0.8
        firing = [alert for alert in (LAG, RUN) if random_.random() < 0.5]
        known = KNOWN if random_.random() < 0.9 else frozenset()
        world.tick(*firing, known=known, times=random_.randrange(1, 12))
    world.reachable = True
    world.tick(times=500)
    for alert in (LAG, RUN):
        own = [notification for _, notification, key in world.heard if key == alert.key]
        assert own
        assert own[0] is Notification.FIRING
        assert own[-1] is Notification.RESOLVED, "at rest, everybody knows that it is over"
        assert all(
            after is not Notification.RESOLVED for before, after in pairwise(own) if before is Notification.RESOLVED
        )
    moments = sorted({at for at, _, _ in world.heard})
    assert all(sum(at <= m < at + 3_600 for m in moments) <= MESSAGES_PER_HOUR for at in moments)


def test_the_states_survive_as_json() -> None:
    world = World()
    world.tick(LAG, RUN, times=4)
    adapter = TypeAdapter(AlertStates)
    assert adapter.validate_json(adapter.dump_json(world.alert_states)) == world.alert_states


def test_the_states_are_bounded_and_what_fires_is_kept() -> None:
    many = tuple(Alert("failed_runs", f"job {n}", Severity.CRITICAL, "failed") for n in range(MAX_STATES + 50))
    older = AlertStates({RUN.key: AlertState(RUN, Phase.FIRING, 0, 0)})
    alert_states = advance(older, Judgement((RUN, *many), KNOWN), 1, SETTINGS)
    assert len(alert_states.states) == MAX_STATES
    assert RUN.key in alert_states.states


def test_a_message_says_what_happened_what_it_means_and_what_to_do() -> None:
    state = AlertState(RUN, Phase.FIRING, 0, 0, unsent=Notification.FIRING)
    message = compose([state], LINKS)
    assert message.title == "metrics-pipeline critical: runs fail (drain 0-of-1)"
    assert RUN.summary in message.body
    assert RUN.about.meaning in message.body
    assert "http://dagster:3000/runs/run-1" in message.body
    assert "docs/runbooks/failed-runs.md" in message.body
    assert message.severity is Severity.CRITICAL


def test_a_message_of_ends_alone_is_no_alarm() -> None:
    message = compose([AlertState(LAG, Phase.RESOLVED, 0, 0, unsent=Notification.RESOLVED)], LINKS)
    assert message.severity is None
    assert message.title.startswith("metrics-pipeline resolved")


def test_a_message_is_bounded_and_counts_what_it_leaves_out() -> None:
    many = [
        AlertState(
            Alert("lag", f"topic {n}", Severity.WARNING, "x" * 400), Phase.FIRING, 0, 0, unsent=Notification.FIRING
        )
        for n in range(100)
    ]
    message = compose(many, LINKS)
    assert len(message.body) <= BODY_LIMIT_CHARACTERS
    assert len(message.title) <= TITLE_LIMIT_CHARACTERS
    assert message.body.splitlines()[-1].endswith("more: metrics-pipeline alerts status")
