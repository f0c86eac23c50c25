"""How every Kafka client of the pipeline is configured, and how its errors are read."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition

from metrics_pipeline.errors import (
    ConfigurationError,
    FencedError,
    KafkaUnavailableError,
    OffsetOutOfRangeError,
    PipelineError,
    StuckClientError,
)
from metrics_pipeline.settings import KafkaSettings

_T = TypeVar("_T")

logger = logging.getLogger("metrics_pipeline.kafka")

_FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
}
_OUT_OF_RANGE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
_MISCONFIGURED = {
    KafkaError._INVALID_ARG: "check METRICS_KAFKA__OPTIONS",
    KafkaError._AUTHENTICATION: "check the credentials in METRICS_KAFKA__OPTIONS",
    KafkaError.SASL_AUTHENTICATION_FAILED: "check the credentials in METRICS_KAFKA__OPTIONS",
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant READ and DESCRIBE on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant READ on the group METRICS_KAFKA__GROUP",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "grant WRITE on transactional ids that start with the group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "grant IDEMPOTENT_WRITE on the cluster",
    KafkaError.UNKNOWN_MEMBER_ID: (
        "a consumer has joined the group METRICS_KAFKA__GROUP; the pipeline needs a group name of its own"
    ),
    KafkaError.UNKNOWN_TOPIC_OR_PART: "create the topic, or check METRICS_KAFKA__TOPIC",
    KafkaError._UNKNOWN_TOPIC: "create the topic, or check METRICS_KAFKA__TOPIC",
    KafkaError._UNKNOWN_PARTITION: "the topic lost a partition: was it recreated?",
    KafkaError.OFFSET_METADATA_TOO_LARGE: "raise offset.metadata.max.bytes of the broker to 4096",
}


def client_config(bootstrap_servers: str, settings: KafkaSettings, **more: Any) -> dict[str, Any]:
    """Options common to all clients; `settings.options` win over ours, so that a user can tune everything."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": "metrics-pipeline",
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
        "logger": logger,
        **more,
        **settings.options,
    }


def translate(error: KafkaError, doing: str) -> PipelineError:
    """The error of ours that says what happened while `doing`, and what to do now."""
    code = error.code()
    said = f"while {doing}: {error.str()}"
    if code in _FENCED:
        return FencedError(f"{said}: a newer run owns this shard")
    if code in _OUT_OF_RANGE:
        return OffsetOutOfRangeError(said)
    if code in _MISCONFIGURED:
        return ConfigurationError(f"{said}: {_MISCONFIGURED[code]}")
    return KafkaUnavailableError(said)


def calling(doing: str, action: Callable[[], _T]) -> _T:
    """Run one client call; its KafkaException becomes one of our errors."""
    try:
        return action()
    except KafkaException as exception:
        raise translate(exception.args[0], doing) from exception


def without_errors(answered: Sequence[TopicPartition]) -> Sequence[TopicPartition]:
    """The answers; one of our errors is raised if any partition has none."""
    for answer in answered:
        if answer.error is not None:
            raise translate(answer.error, f"asking for an offset of {answer.topic}[{answer.partition}]")
    return answered


def within(limit_seconds: float, doing: str, action: Callable[[], _T]) -> _T:
    """Run one client call that may never return. Raises StuckClientError after the limit; the call is left behind.

    librdkafka ignores the timeout of `send_offsets_to_transaction` while the group's coordinator is away, and may hang
    for good (its issues 5456 and 5511). The thread is a daemon: it must not keep the process from ending.
    """
    answer: Future[_T] = Future()

    def run() -> None:
        try:
            answer.set_result(action())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            answer.set_exception(error)

    threading.Thread(target=run, name=doing, daemon=True).start()
    try:
        return answer.result(limit_seconds)
    except TimeoutError:
        raise StuckClientError(
            f"while {doing}: the Kafka client did not return within {limit_seconds:.0f} s; the next run starts anew"
        ) from None
