"""A Kafka broker on this machine: KRaft, one node, loopback only."""

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from metrics_pipeline.errors import LocalEngineError
from metrics_pipeline.lab.local.fetch import KafkaProgram
from metrics_pipeline.lab.local.process import Engine, await_answer, choose_port, spawn

_START_SECONDS = 60
_CLUSTER_ID = "bWV0cmljcy1waXBlbGluZQ"
_HEAP = ("-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:TieredStopAtLevel=4")


class KafkaServer(Engine):
    """A running broker."""


def start_kafka(
    program: KafkaProgram,
    folder: Path,
    *,
    preferred_port: int | None = None,
    properties: Mapping[str, str] | None = None,
) -> KafkaServer:
    """Start a broker whose data live in `folder`, and wait until it answers. Raises LocalEngineError."""
    folder.mkdir(parents=True, exist_ok=True)
    port = choose_port(preferred_port)
    address = f"127.0.0.1:{port}"
    config = folder / "server.properties"
    config.write_text("".join(f"{k}={v}\n" for k, v in {**_properties(folder, port), **(properties or {})}.items()))
    log4j = folder / "log4j2.yaml"
    log4j.write_text(_LOG4J)
    java = [program.java, *_HEAP, f"-Dlog4j2.configurationFile={log4j}", "-cp", program.class_path]
    if not (folder / "data" / "meta.properties").exists():
        command = [*java, "kafka.tools.StorageTool", "format", "-t", _CLUSTER_ID, "-c", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_START_SECONDS)
        if done.returncode:
            raise LocalEngineError(f"could not format Kafka's folder: {(done.stderr or done.stdout).strip()[-1_000:]}")
    process = spawn("kafka", [*java, "kafka.Kafka", str(config)], folder, os.environ)
    admin = AdminClient({"bootstrap.servers": address, "log_level": 0})
    await_answer(process, lambda: _answers(admin), _START_SECONDS)
    return KafkaServer(process, address)


def _answers(admin: AdminClient) -> bool:
    with suppress(KafkaException):
        return bool(admin.list_topics(timeout=1).brokers)
    return False


def _properties(folder: Path, port: int) -> dict[str, str]:
    controller_port = choose_port(None)
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / "data"),
        "auto.create.topics.enable": "false",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "group.initial.rebalance.delay.ms": "0",
        "log.retention.hours": "24",
        "log.retention.bytes": str(4 << 30),
        "log.segment.bytes": str(256 << 20),
        "num.network.threads": "2",
        "num.io.threads": "4",
    }


_LOG4J = """
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout: {pattern: "[%d] %p %m (%c)%n"}
  Loggers:
    Root:
      level: WARN
      AppenderRef: [{ref: STDOUT}]
"""
