"""How tables are kept: on one server, or as replicas of a shard. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from metrics_pipeline.runtime.timerange import DAY_SECONDS

TOKEN_SECONDS = 7 * DAY_SECONDS
"""Replicas forget a token after this time, too. Their default is an hour: a batch may be open for longer."""


@dataclass(frozen=True, slots=True)
class Storage:
    """`database` is named in the paths of replicas, which all replicas of a shard have to agree on."""

    window_blocks: int
    is_replicated: bool = False
    database: str = ""

    @property
    def window_setting(self) -> str:
        """Of a table: how many inserts' tokens it remembers."""
        return "replicated_deduplication_window" if self.is_replicated else "non_replicated_deduplication_window"

    @property
    def window_seconds(self) -> float:
        """How long a table remembers a token at the most."""
        return TOKEN_SECONDS if self.is_replicated else math.inf

    @property
    def token_settings(self) -> Mapping[str, str]:
        """What a table has to be given, so that a repeated insert changes nothing."""
        settings = {self.window_setting: str(self.window_blocks)}
        if self.is_replicated:
            settings["replicated_deduplication_window_seconds"] = str(TOKEN_SECONDS)
        return settings

    def engine(self, engine: str, table: str) -> str:
        """The engine as a statement names it. The servers' macros say which shard and which replica they are."""
        if not self.is_replicated:
            return engine
        kind, _, arguments = engine.removesuffix(")").partition("(")
        place = f"'/clickhouse/tables/{{shard}}/{self.database}/{table}', '{{replica}}'"
        return f"Replicated{kind}({place}{', ' + arguments if arguments else ''})"
