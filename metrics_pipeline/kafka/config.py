"""How every Kafka client of the pipeline is configured, and how its errors are read."""

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Self, TypeVar

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

logger = logging.getLogger(__name__)

_FENCED = {
    KafkaError._FENCED,
    KafkaError.INVALID_PRODUCER_EPOCH,
    KafkaError.PRODUCER_FENCED,
}
_OUT_OF_RANGE = {KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._AUTO_OFFSET_RESET}
_OPENING = "setting up a client of Kafka"
_WRONG_OPTION = "check METRICS_KAFKA__OPTIONS"
_LOGIN_ADVICE = "check METRICS_KAFKA__SASL_USERNAME and METRICS_KAFKA__SASL_PASSWORD"
_MISCONFIGURED = {
    KafkaError._INVALID_ARG: _WRONG_OPTION,
    KafkaError._AUTHENTICATION: _LOGIN_ADVICE,
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN_ADVICE,
    KafkaError._SSL: (
        "its certificate has expired, is for another name, or is not signed by who METRICS_KAFKA__CA_FILE names"
    ),
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "grant READ and DESCRIBE on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "grant READ on groups that start with METRICS_KAFKA__GROUP",
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


class Closing(ABC):
    """A context manager that is closed at its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None: ...


def client_config(bootstrap_servers: str, settings: KafkaSettings, **more: Any) -> dict[str, Any]:
    """Options common to all clients; `settings.options` win over ours: a user can tune what isn't in OWN_OPTIONS."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": "metrics-pipeline",
        "socket.nagle.disable": True,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2_000,
        "log.connection.close": False,
        "logger": logger,
        **_security(settings),
        **more,
        **settings.options,
    }


def new_client(
    kind: Callable[[dict[str, Any]], _T], bootstrap_servers: str, settings: KafkaSettings, **more: Any
) -> _T:
    """A client of the kind, with the options common to all and `more`. Raises ConfigurationError if one is wrong."""
    try:
        return calling(_OPENING, lambda: kind(client_config(bootstrap_servers, settings, **more)))
    except (TypeError, ValueError) as error:
        # An option that takes a function, say: the binding looks at those before librdkafka does.
        raise ConfigurationError(f"while {_OPENING}: {error}: {_WRONG_OPTION}") from None


def _security(settings: KafkaSettings) -> dict[str, Any]:
    """Encryption and login, as librdkafka names them."""
    secrets = {"ssl.key.password": settings.key_password}
    options: dict[str, Any] = {
        "security.protocol": settings.security_protocol,
        "ssl.ca.location": settings.ca_file,
        "ssl.certificate.location": settings.certificate_file,
        "ssl.key.location": settings.key_file,
    }
    if settings.security_protocol.startswith("SASL"):
        options["sasl.mechanism"] = settings.sasl_mechanism
        if settings.sasl_mechanism == "OAUTHBEARER":
            options |= {
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": settings.sasl_token_url,
                "sasl.oauthbearer.scope": settings.sasl_scope,
                "sasl.oauthbearer.client.id": settings.sasl_username,
            }
            secrets["sasl.oauthbearer.client.secret"] = settings.sasl_password
        else:
            options["sasl.username"] = settings.sasl_username
            secrets["sasl.password"] = settings.sasl_password
    plain = {name: secret.get_secret_value() for name, secret in secrets.items() if secret is not None}
    return {name: str(value) for name, value in options.items() if value is not None} | plain


def refusal(error: KafkaError, doing: str) -> ConfigurationError | None:
    """Our error for what a client reports to its callback while it keeps trying; None if waiting may help.

    Waiting can't help where a login or a certificate is refused.
    """
    said = error.str()
    if error.code() == KafkaError._TRANSPORT and "alert" in said and "certificate" in said:
        return ConfigurationError(
            f"while {doing}: {said}: the brokers want a certificate of ours: check METRICS_KAFKA__CERTIFICATE_FILE and "
            "METRICS_KAFKA__KEY_FILE"
        )
    is_token_service_away = "OAUTHBEARER token: Failed to connect" in said
    if error.code() in {KafkaError._AUTHENTICATION, KafkaError._SSL} and not is_token_service_away:
        return ConfigurationError(f"while {doing}: {said}: {_MISCONFIGURED[error.code()]}")
    return None


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
            f"while {doing}: the Kafka client did not return within {limit_seconds:.0f} s; the next run starts with "
            "a new client"
        ) from None
