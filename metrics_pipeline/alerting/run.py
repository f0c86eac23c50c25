"""Evaluates the pipeline and notifies people: read the signals, judge them, notify, write the alert states. The sensor
and the command line both come here.

The table alert_log has the alert states. While ClickHouse is away, the caller's own copy stands in for the table, so
that people are notified of the outage once, too.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TypeVar

from clickhouse_connect.driver.client import Client

from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.log import read_alert_states, write_alert_states
from metrics_pipeline.alerting.message import Message, compose
from metrics_pipeline.alerting.notifications import (
    AlertState,
    AlertStates,
    Notification,
    Phase,
    advance,
    due,
    notified,
)
from metrics_pipeline.alerting.notify import Delivery, deliver
from metrics_pipeline.alerting.reading import read_burn, read_flow, read_landed, read_storage
from metrics_pipeline.alerting.rules import Alert, Judgement, judge
from metrics_pipeline.alerting.signals import CheckSignal, EngineSignal, PartitionSignal, RunSignal, Signals
from metrics_pipeline.clickhouse.client import connect
from metrics_pipeline.errors import PipelineError, RetryableError
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.ledger.tables import LedgerScope
from metrics_pipeline.settings import AlertSettings, Settings, destination_urls, kafka_address

logger = logging.getLogger(__name__)

ENGINE_TIMEOUT_SECONDS = 10
"""Longest wait for one answer of an engine: an evaluation must end within a tick of the sensor."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Copy:
    """A caller's copy of the alert states. `is_ahead`: ClickHouse could not take it, so the table is older."""

    alert_states: AlertStates = field(default_factory=AlertStates)
    is_ahead: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one evaluation leaves to remember, the notifications that were due, and what became of the message."""

    copy: Copy
    notifications: tuple[AlertState, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is wrong right now: as just judged, or, of kinds that only the sensor knows, as it last saw them."""

    states: tuple[AlertState, ...]
    engines: tuple[EngineSignal, ...]


def evaluate(settings: Settings, runs: Sequence[RunSignal], checks: Sequence[CheckSignal], copy: Copy) -> Evaluation:
    """Judge, notify of what is due, and write the alert states. No engine and no destination can make it raise."""
    now = time.time()
    with closing(_Warehouse(settings)) as warehouse:
        stored = warehouse.ask(read_alert_states)
        before = copy.alert_states if copy.is_ahead or stored is None else stored
        signals = replace(_read(warehouse), runs=tuple(runs), checks=tuple(checks))
        judgement = judge(signals, settings.alerts)
        alert_states = advance(before, judgement, now, settings.alerts)
        notifications = due(alert_states, now)
        deliveries = _notify(settings.alerts, notifications)
        # One destination is enough: else those that are away would make the others hear it twice.
        if not deliveries or any(delivery.problem is None for delivery in deliveries):
            alert_states = notified(alert_states, notifications, now)
        if stored is not None:
            warehouse.ask(lambda client: write_alert_states(client, stored, alert_states, now))
    return Evaluation(Copy(alert_states, is_ahead=warehouse.problem is not None), notifications, deliveries)


def standing(settings: Settings) -> Standing:
    """What is wrong now. Nobody is notified, and nothing is written."""
    with closing(_Warehouse(settings)) as warehouse:
        stored = warehouse.ask(read_alert_states) or AlertStates()
        signals = _read(warehouse)
    judgement = judge(signals, settings.alerts)
    now = time.time()
    states = tuple(_as_known(stored.states.get(alert.key), alert, now) for alert in judgement.alerts)
    judged = {alert.key for alert in judgement.alerts}
    remembered = tuple(
        state for state in stored.firing if state.alert.key not in judged and not judgement.is_healthy(state.alert.key)
    )
    return Standing(states + remembered, signals.engines)


def look(settings: Settings) -> tuple[Signals, Judgement]:
    """The signals of now, and what is wrong by them alone: the alert states are not read."""
    with closing(_Warehouse(settings)) as warehouse:
        signals = _read(warehouse)
    return signals, judge(signals, settings.alerts)


def try_out(settings: Settings) -> tuple[Delivery, ...]:
    """Send a test message to every destination."""
    message = Message(
        "metrics-pipeline: test of notifications",
        "Somebody ran `metrics-pipeline alerts test`. Nothing is wrong; alerts will arrive here.",
        Severity.WARNING,
    )
    return deliver(message, destination_urls(settings.alerts))


def _as_known(state: AlertState | None, alert: Alert, now: float) -> AlertState:
    if state is None or state.phase is Phase.RESOLVED:
        return AlertState(alert, Phase.PENDING, now, now)
    return replace(state, alert=alert)


class _Warehouse:
    """ClickHouse for one evaluation. It connects at the first question, and after a failure it answers no more."""

    def __init__(self, settings: Settings) -> None:
        self.settings = _impatient(settings)
        self._client: Client | None = None
        self.problem: str | None = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def ask(self, question: Callable[[Client], _T], *, is_optional: bool = False) -> _T | None:
        """None without an answer. An `is_optional` question may lack a table or a grant, which is no outage."""
        if self.problem is not None:
            return None
        try:
            if self._client is None:
                self._client = connect(self.settings)
            return question(self._client)
        except PipelineError as error:
            if not is_optional or isinstance(error, RetryableError):
                self.problem = str(error)
            logger.warning("%s", error)
            return None


def _impatient(settings: Settings) -> Settings:
    changed = {}
    for name in ("kafka", "clickhouse"):
        part = getattr(settings, name)
        limit = min(part.request_timeout_seconds, ENGINE_TIMEOUT_SECONDS)
        changed[name] = part.model_copy(update={"request_timeout_seconds": limit})
    return settings.model_copy(update=changed)


def _read(warehouse: _Warehouse) -> Signals:
    settings = warehouse.settings
    scope = LedgerScope(settings.kafka.topic, settings.kafka.group)
    lags, kafka_problem = _lags(settings)
    landed = warehouse.ask(lambda client: read_landed(client, scope))
    flow = warehouse.ask(lambda client: read_flow(client, scope, landed or {}))
    # Where the table canaries is not made yet, the other signals are known all the same.
    objective_seconds = settings.alerts.freshness_seconds
    burn = warehouse.ask(lambda client: read_burn(client, scope, objective_seconds), is_optional=True)
    storage = warehouse.ask(read_storage, is_optional=True)
    partitions = None
    if lags is not None:
        partitions = tuple(PartitionSignal(p, lag, (landed or {}).get(p)) for p, lag in sorted(lags.items()))
    engines = (EngineSignal("kafka", kafka_problem), EngineSignal("clickhouse", warehouse.problem))
    return Signals(settings.kafka.topic, engines, partitions, flow, burn, storage)


def _lags(settings: Settings) -> tuple[Mapping[int, int] | None, str | None]:
    try:
        lags = read_lag(kafka_address(settings), settings.kafka)
    except PipelineError as error:
        logger.warning("%s", error)
        return None, str(error)
    return {p: lag.offsets for p, lag in lags.items()}, None


def _notify(alerts: AlertSettings, notifications: Sequence[AlertState]) -> tuple[Delivery, ...]:
    if not notifications:
        return ()
    for notification in notifications:
        is_over = notification.unsent in (Notification.RESOLVED, Notification.FORGOTTEN)
        logger.log(
            logging.INFO if is_over else logging.WARNING, "%s: %s", notification.unsent, notification.alert.summary
        )
    deliveries = deliver(compose(notifications, alerts), destination_urls(alerts))
    for delivery in deliveries:
        if delivery.problem is not None:
            logger.error("the alert did not reach %s: %s", delivery.destination, delivery.problem)
    return deliveries
