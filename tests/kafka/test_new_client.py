"""Options that the client refuses: each kind of client says so in one of our errors."""

from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.kafka.config import new_client
from metrics_pipeline.kafka.lag import read_lag
from metrics_pipeline.kafka.log import KafkaLog
from metrics_pipeline.kafka.producer import TopicProducer
from metrics_pipeline.lab.loadgen.sender import EventSender
from metrics_pipeline.settings import KafkaSettings, Settings

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize(
    "options",
    [{"no.such.option": "x"}, {"socket.timeout.ms": "soon"}, {"error_cb": "x"}, {"security.protocol": "x"}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("kind", [Consumer, Producer, AdminClient])
def test_a_wrong_option_is_named(kind: Callable[[dict[str, Any]], object], options: dict[str, str]) -> None:
    settings = KafkaSettings(options=options)
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))}.*check METRICS_KAFKA__OPTIONS"):
        new_client(kind, NOBODY, settings, **{"group.id": "g"})


def _sender(address: str, kafka: KafkaSettings) -> EventSender:
    return EventSender(Settings(kafka=kafka.model_copy(update={"bootstrap_servers": address})))


@pytest.mark.parametrize("opened", [read_lag, KafkaLog, TopicProducer, _sender])
def test_whoever_opens_one_says_so(opened: Callable[[str, KafkaSettings], object]) -> None:
    with pytest.raises(ConfigurationError, match="METRICS_KAFKA__OPTIONS"):
        opened(NOBODY, KafkaSettings(options={"no.such.option": "x"}))
