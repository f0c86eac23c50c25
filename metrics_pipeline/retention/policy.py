"""The retention policy: how long what is kept, as values that have been checked. Pure.

Days are of event time (dead letters and the ledger: of message time), UTC, and are a least: whole partitions are
dropped, so of a table whose partitions are longer than a day, rows stay until the last one of their partition may go.
"""

import tomllib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.rollups.grains import GRAINS, LIVE

LEDGER_MARGIN_DAYS = 11
"""The ledger is kept this much longer than the events that it accounts for, which may be ten days ahead of their
messages."""
_MAX_OVERRIDES = 1_000

Days = Annotated[int, Field(ge=1, le=36_500)]
_Name = Annotated[str, Field(min_length=1, max_length=256)]
_Overrides = Annotated[dict[_Name, Days], Field(default_factory=dict, max_length=_MAX_OVERRIDES)]
_JOB_DAYS = {"drain": 3, "canary": 3, "rebuild_rollups_daily": 400, "rebuild_rollups_weekly": 400, "replay_hours": 400}
_GRAIN_DAYS = {"1m": 45, "10m": 120, "1h": 400, "1d": 1_200, "7d": 1_200}


class _Part(BaseModel):
    # Strict, since `days = true` would be one day.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RawPolicy(_Part):
    """Events as they were sent. Where a service and a tier are both named, the longer time holds."""

    days: Days = 30
    services: _Overrides
    tiers: _Overrides

    @property
    def longest_days(self) -> int:
        return max((self.days, *self.services.values(), *self.tiers.values()))

    @property
    def has_overrides(self) -> bool:
        return bool(self.services or self.tiers)


class KeptPolicy(_Part):
    days: Days


class RunsPolicy(_Part):
    """Runs of this code location in Dagster that ended, with their logs; some jobs otherwise than the rest.

    There is a drain each minute. What a rebuild of a partition said is what Dagster knows of that partition.
    """

    days: Days = 30
    jobs: dict[_Name, Days] = Field(default_factory=lambda: dict(_JOB_DAYS), max_length=_MAX_OVERRIDES)
    most: int = Field(20_000, ge=1, le=1_000_000)
    """Deleted by one run of retention at most."""

    def days_of(self, job: str) -> int:
        return self.jobs.get(job, self.days)


class ColdPolicy(_Part):
    """Partitions of events and rollups that are older move to this volume of the tables' storage policy."""

    volume: str = Field("", pattern=r"^[A-Za-z0-9_]*$", max_length=64)
    after_days: Days = 7


class NetPolicy(_Part):
    """TTLs, this many days behind the policy, drop what no run of retention did. 0: TTLs are left alone."""

    days: int = Field(30, ge=0, le=3_650)


class CostPolicy(_Part):
    price_per_gb_month: float = Field(0.1, ge=0, le=1_000)


class Policy(_Part):
    """All of it; each value that a file doesn't give has its default."""

    raw: RawPolicy = Field(default_factory=lambda: RawPolicy(services={}, tiers={}))
    rollups: dict[str, Days] = Field(default_factory=lambda: dict(_GRAIN_DAYS))
    dead_letters: KeptPolicy = KeptPolicy(days=90)
    ledger: KeptPolicy = KeptPolicy(days=400)
    alerts: KeptPolicy = KeptPolicy(days=90)
    canaries: KeptPolicy = KeptPolicy(days=90)
    runs: RunsPolicy = Field(default_factory=RunsPolicy)
    cold: ColdPolicy = Field(default_factory=ColdPolicy)
    net: NetPolicy = Field(default_factory=NetPolicy)
    cost: CostPolicy = Field(default_factory=CostPolicy)

    @field_validator("rollups", mode="before")
    @classmethod
    def _with_all_grains(cls, given: Any) -> Any:
        return {**_GRAIN_DAYS, **given} if isinstance(given, Mapping) else given

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if problems := list(self._problems()):
            raise ValueError("\n  ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        for name in self.rollups.keys() - _GRAIN_DAYS.keys():
            yield f"rollups: there is no grain {name}: {', '.join(_GRAIN_DAYS)}"
            return
        for fine, coarse in pairwise(grain.name for grain in GRAINS):
            if self.rollups[coarse] < self.rollups[fine]:
                yield (
                    f"rollups.{coarse}: at least as long as {fine} ({self.rollups[fine]} days), whose rows it "
                    "replaces once they are dropped"
                )
        least = max(self.raw.longest_days, self.rollups[LIVE.name]) + LEDGER_MARGIN_DAYS
        if self.ledger.days < least:
            yield (
                f"ledger.days: at least {least}, {LEDGER_MARGIN_DAYS} days longer than raw events and rollups of "
                f"{LIVE.name}, which the audit compares it with"
            )


def parse_policy(text: str, name: str) -> Policy:
    """The policy that a TOML file says. Raises ConfigurationError with one line for each wrong value."""
    try:
        return Policy.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{name} is no TOML: {error}") from None
    except ValidationError as error:
        raise ConfigurationError(f"wrong retention policy in {name}:\n  " + "\n  ".join(_lines(error))) from None


def given_values(text: str) -> frozenset[str]:
    """The dotted names of the values that a TOML file gives."""
    return frozenset(_leaves(tomllib.loads(text)))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        yield from _leaves(value, f"{name}.") if isinstance(value, Mapping) else (name,)


def _lines(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        name = ".".join(map(str, problem["loc"]))
        said = problem["msg"].removeprefix("Value error, ")
        yield f"{name}: {said} (got {problem['input']!r:.80})" if name else said
