"""All settings, typed, with their units: from the environment, `METRICS_<PART>__<NAME>`, or from files.

Files are for secrets: METRICS_SECRETS_DIR names a folder in which the file `<part>__<name>` holds one value, as
Kubernetes and Docker mount them. What the environment says goes first.

Where an address is not set, the one of the engines that `metrics-pipeline up` started is used.
"""

import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FilePath,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.runtime.local_state import home_folder, running_addresses, state_file
from metrics_pipeline.runtime.setting_values import checked_options, checked_url
from metrics_pipeline.runtime.variables import (
    PREFIX,
    SECRETS_FOLDER,
    SEPARATOR,
    explained,
    is_setting,
    misspelt,
    wrong_settings,
)

_Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)]
_Url = Annotated[SecretStr, AfterValidator(lambda url: SecretStr(checked_url(url.get_secret_value())))]
_TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=249)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Part):
    """Where the events come from."""

    bootstrap_servers: str | None = Field(None, description="host:port[,host:port…]; unset: the local broker")
    topic: _TopicName = Field("events", description="topic that services write their events to")
    group: _TopicName = Field(
        "metrics-pipeline",
        description="name under which offsets are stored; no consumer group membership is used",
    )
    partitions: int = Field(8, ge=1, le=10_000, description="partitions of the topic where we create it")
    replication_factor: int = Field(1, ge=1, le=10, description="replicas of the topic where we create it")
    request_timeout_seconds: float = Field(
        30, gt=0, le=300, description="longest wait for one answer of a broker, seconds"
    )
    prefetch_bytes: int = Field(
        32 << 20, ge=1 << 20, le=1 << 30, description="fetched ahead of the drain at most, bytes"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to the brokers: encrypted or not, with a login or not"
    )
    ca_file: FilePath | None = Field(
        None, description="PEM of who signs the brokers' certificates; unset: the system's"
    )
    certificate_file: FilePath | None = Field(None, description="PEM of our certificate, where brokers ask for one")
    key_file: FilePath | None = Field(None, description="PEM of its private key")
    key_password: SecretStr | None = Field(None, description="of the private key; secret")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="kind of login, where the protocol has one"
    )
    sasl_username: str | None = Field(None, description="user, or client id of OAUTHBEARER")
    sasl_password: SecretStr | None = Field(None, description="password, or client secret of OAUTHBEARER; secret")
    sasl_token_url: str | None = Field(None, description="where OAUTHBEARER gets tokens (OIDC client credentials)")
    sasl_scope: str | None = Field(None, description="scope of these tokens")
    options: Annotated[dict[str, str], NoDecode, BeforeValidator(checked_options)] = Field(
        default_factory=dict,
        description='further librdkafka options as JSON, e.g. {"broker.address.family": "v4"}; secret',
        repr=False,
    )

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        if not self.security_protocol.startswith("SASL"):
            return self
        if not (self.sasl_username and self.sasl_password):
            raise ValueError(f"{self.security_protocol} needs sasl_username and sasl_password")
        if self.sasl_mechanism == "OAUTHBEARER" and not self.sasl_token_url:
            raise ValueError("OAUTHBEARER needs sasl_token_url")
        return self


class ClickHouseSettings(_Part):
    """Where the events go."""

    url: _Url | None = Field(None, description="http[s]://user:password@host:port/database; unset: the local server")
    ca_file: FilePath | None = Field(None, description="PEM of who signs the server's certificate; unset: the system's")
    certificate_file: FilePath | None = Field(None, description="PEM of our certificate, where the server asks for one")
    key_file: FilePath | None = Field(None, description="PEM of its private key")
    request_timeout_seconds: float = Field(
        60, gt=0, le=3600, description="longest wait for one answer of the server, seconds"
    )
    deduplication_window_blocks: int = Field(
        10_000, ge=100, le=1_000_000, description="inserted blocks whose tokens each table remembers"
    )
    cluster: _Identifier | None = Field(
        None,
        description="cluster of the servers' remote_servers that the tables are distributed over; unset: one server",
    )
    replicated: bool = Field(
        default=True,
        description="tables of a cluster are replicated (needs a Keeper, and the macros shard and replica)",
    )
    servers: Annotated[tuple[_Url, ...], NoDecode] = Field(
        (), description="URLs of all servers of the cluster, as JSON; unset: its hosts, with the URL's port and account"
    )

    @field_validator("servers", mode="before")
    @classmethod
    def _are_json(cls, value: object) -> object:
        """Read here: where the settings' library decodes, it names no setting when it fails."""
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('must be JSON: ["http://user:password@host:port/database", …]') from None

    @model_validator(mode="after")
    def _servers_are_of_a_cluster(self) -> Self:
        if self.servers and self.cluster is None:
            raise ValueError("servers are those of a cluster: set METRICS_CLICKHOUSE__CLUSTER to its name")
        return self


class DrainSettings(_Part):
    """How a drain run cuts the log into micro-batches."""

    shards: int = Field(1, ge=1, le=1_000, description="drain runs side by side; partition p is in shard p mod n")
    window_seconds: float = Field(60, gt=0, le=86_400, description="a run hands over after this time, seconds")
    flush_seconds: float = Field(0.3, gt=0, le=600, description="a batch is flushed at this age, seconds")
    flush_events: int = Field(100_000, ge=1, le=2_000_000, description="... or at this many messages")
    flush_bytes: int = Field(32 << 20, ge=1 << 10, le=1 << 30, description="... or at this size, bytes")
    idle_seconds: float = Field(15, gt=0, le=86_400, description="a run that gets no messages ends then, seconds")
    handover_seconds: float = Field(
        30,
        gt=0,
        le=3_600,
        description="a run waits for its successor this long beyond its window at most, seconds",
    )
    retry_seconds: float = Field(
        120,
        gt=0,
        le=86_400,
        description="a run retries an engine that is away for this time, then fails, seconds",
    )
    zombie_seconds: float = Field(
        20, gt=0, le=600, description="how long a proof that the run owns its shard is trusted, seconds"
    )

    skip_to_head_lag_offsets: int | None = Field(
        None,
        ge=1,
        description="a run that starts with more lag in its shard skips to the head at once and leaves the rest to a "
        "backfill; unset: never",
    )

    @model_validator(mode="after")
    def _flush_within_window(self) -> Self:
        if self.flush_seconds > self.window_seconds:
            raise ValueError("flush_seconds must not exceed window_seconds")
        return self


class EventSettings(_Part):
    """Limits on what an event may say, on top of the contract in event/contract.py."""

    max_age_days: int = Field(14, ge=1, le=10_000, description="older than its message by more: dead letter")
    max_future_seconds: int = Field(3_600, ge=0, le=864_000, description="ahead of its message by more: dead letter")


class RetentionSettings(_Part):
    """How long everything is kept."""

    policy: Path | None = Field(
        None,
        description="file with the policy (TOML), as `metrics-pipeline retention --show-policy` prints it; unset: "
        "defaults",
    )


class AlertSettings(_Part):
    """What is called a problem, and who is notified of it when."""

    destinations: SecretStr | None = Field(
        None,
        description="apprise URLs, apart by blanks: slack://…, pagerduty://…, mailtos://…, jsons://…; secret; unset: "
        "alerts are evaluated and logged only",
    )
    dagster_url: str | None = Field(None, description="address of Dagster's UI, for links; unset: the local one")
    runbook_url: str = Field("docs/runbooks", description="where the run books are, for links")
    freshness_seconds: float = Field(
        30,
        gt=0,
        le=86_400,
        description="objective: events are visible within, seconds; after a pause a run needs some 10 s to start",
    )
    freshness_share: float = Field(
        0.99,
        ge=0.95,
        lt=1,
        description="... for this share of events and canaries; below 0.95 a standstill could not burn fast enough to "
        "be noticed",
    )
    rollups_seconds: int = Field(
        3_600, ge=600, le=864_000, description="objective: a bucket of rollups is built within, after its end, seconds"
    )
    lag_offsets: int = Field(2_000_000, ge=1, description="objective: offsets behind at most")
    dead_letter_share: float = Field(0.02, gt=0, le=1, description="objective: dead letters, of messages, at most")
    stalled_seconds: float = Field(
        120, ge=10, le=3_000, description="offsets wait and nothing landed for longer: a standstill, seconds"
    )
    disk_free_share: float = Field(0.1, ge=0, lt=1, description="a disk with less free is running full")
    disk_days: float = Field(14, ge=0, le=1_000, description="... or with space for fewer days of the present growth")
    parts_per_partition: int = Field(600, ge=10, le=100_000, description="more active parts: merges fall behind")
    pending_seconds: float = Field(
        60,
        ge=0,
        le=86_400,
        description="a problem must last that long before anybody is notified, and be gone for twice as long to be "
        "called resolved, seconds",
    )
    repeat_seconds: float = Field(21_600, ge=60, description="... and people are notified of it again after, seconds")


class CanarySettings(_Part):
    """Events of our own, which measure what a consumer sees."""

    enabled: bool = Field(
        default=False,
        description="`canary_schedule` is on unless the UI says otherwise: a run and an event per shard a minute",
    )


class LocalSettings(_Part):
    """Local engines, for the demo, development and tests."""

    home: Path | None = Field(None, description="folder of the engines' data, logs and state")
    cache: Path | None = Field(None, description="folder of the fetched engines; shared by all homes")
    dagster_home: Path | None = Field(None, description="Dagster's instance; unset: dagster_home/ of the checkout")


class _Environment(EnvSettingsSource):
    """The variables that are settings: the library takes METRICS_LOCAL=1 of another program for a part, and fails."""

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            raise ConfigurationError(wrong_settings([f"{PREFIX}{field_name.upper()}: must be JSON"])) from None

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {
            name: value for name, value in super()._load_env_vars().items() if is_setting(name, value or "", _names())
        }


class Settings(BaseSettings):
    """The whole configuration. Build it with `load_settings`, which names wrong values one by one."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=SEPARATOR, extra="forbid", frozen=True)

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    clickhouse: ClickHouseSettings = Field(default_factory=ClickHouseSettings)
    drain: DrainSettings = Field(default_factory=DrainSettings)
    events: EventSettings = Field(default_factory=EventSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    canary: CanarySettings = Field(default_factory=CanarySettings)
    local: LocalSettings = Field(default_factory=LocalSettings)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is the library's
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        folder = os.environ.get(SECRETS_FOLDER)
        files = NestedSecretsSettingsSource(
            file_secret_settings, folder, secrets_dir_missing="error", secrets_prefix=""
        )
        return init_settings, _Environment(settings_cls), files


def load_settings(*, with_local_engines: bool = True) -> Settings:
    """Read the environment and the files of secrets; fill unset addresses with those of the running local engines.

    Raises ConfigurationError that names every wrong setting, its value (unless secret) and the reason.
    """
    _refuse_misspelt_names()
    try:
        settings = Settings()
    except ValidationError as error:
        raise ConfigurationError(wrong_settings(explained(error, _names()))) from None
    except SettingsError as error:
        raise ConfigurationError(f"{SECRETS_FOLDER}: {error}") from None
    return _with_local_addresses(settings) if with_local_engines else settings


def destination_urls(alerts: AlertSettings) -> tuple[str, ...]:
    """The apprise URLs with their secrets."""
    return tuple(alerts.destinations.get_secret_value().split()) if alerts.destinations else ()


def local_home(local: LocalSettings) -> Path:
    """The folder of the local engines."""
    return home_folder(local.home)


def local_state_file(local: LocalSettings) -> Path:
    """Where `up` notes what runs and at which addresses."""
    return state_file(local.home)


def kafka_address(settings: Settings) -> str:
    """The bootstrap servers; ConfigurationError if there are none."""
    if settings.kafka.bootstrap_servers is None:
        raise ConfigurationError(_no_engine("Kafka", "KAFKA__BOOTSTRAP_SERVERS=host:9092"))
    return settings.kafka.bootstrap_servers


def clickhouse_url(settings: Settings) -> str:
    """The server's URL with its secrets; ConfigurationError if there is none."""
    if settings.clickhouse.url is None:
        raise ConfigurationError(_no_engine("ClickHouse", "CLICKHOUSE__URL=http://user:password@host:8123/db"))
    return settings.clickhouse.url.get_secret_value()


def _no_engine(name: str, example: str) -> str:
    return (
        f"no address for {name}: start a local one with `metrics-pipeline up --engines-only`, or set {PREFIX}{example}"
    )


def _with_local_addresses(settings: Settings) -> Settings:
    addresses = running_addresses(settings.local.home)
    kafka, clickhouse, alerts = settings.kafka, settings.clickhouse, settings.alerts
    if kafka.bootstrap_servers is None and "kafka" in addresses:
        kafka = kafka.model_copy(update={"bootstrap_servers": addresses["kafka"]})
    if clickhouse.url is None and "clickhouse" in addresses:
        clickhouse = clickhouse.model_copy(update={"url": SecretStr(addresses["clickhouse"])})
    if alerts.dagster_url is None and "dagster" in addresses:
        alerts = alerts.model_copy(update={"dagster_url": addresses["dagster"]})
    return settings.model_copy(update={"kafka": kafka, "clickhouse": clickhouse, "alerts": alerts})


def _refuse_misspelt_names() -> None:
    if lines := misspelt(os.environ, _names()):
        raise ConfigurationError(wrong_settings(lines))


@cache
def _names() -> frozenset[str]:
    """Of all settings, as the environment has them."""
    return frozenset(
        f"{PREFIX}{part}{SEPARATOR}{name}".upper()
        for part, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Part)
        for name in field.annotation.model_fields
    )
