"""Ordinary events, thousands at a time: random draws look up tables, Polars puts the texts together.

A block depends on its arguments alone, so the same seed and start give the same events again.
"""

from dataclasses import dataclass
from math import log, tau
from random import Random

import polars as pl

from metrics_pipeline.lab.loadgen.tables import STATUS_DRAWS, TAILS, tables

_DRAWS_PER_EVENT = 9
_DAY_SECONDS, _WAVE_SECONDS = 86_400.0, 180.0
_TROUBLE_EVERY_SECONDS, _TROUBLE_SECONDS, _TROUBLE_FACTOR = 90, 15, 6.0
_SMALLEST_MS = 0.05


@dataclass(frozen=True, slots=True)
class Traffic:
    """A block of events without their timestamps; all lists and `rows` have the same length.

    `ids` are canonical UUIDs; `rests` are the JSON texts from the end of the timestamp's value to the end of
    the document; `rows` has event_id, service, endpoint, tier, status and latency_ms.
    """

    ids: list[str]
    rests: list[str]
    rows: pl.DataFrame


def traffic(seed: int, block: int, start_ms: float, ms_per_event: float, size: int) -> Traffic:
    """The events of block number `block`, the first of them nominally at `start_ms`."""
    draws = _draws(Random(f"{seed}/{block}"), size)  # traffic, not secrets
    nominal_ms = _nominal_ms(start_ms, ms_per_event, size)
    known = tables()
    endpoint = known.endpoints[known.endpoint_of_draw[draws[0]]]
    status = known.status_of_draw[endpoint["status_profile"] * STATUS_DRAWS + draws[1] % STATUS_DRAWS]
    columns = pl.concat(
        [
            endpoint,
            known.statuses[status],
            known.tails[draws[2] % TAILS],
            _id_parts(draws[4:], nominal_ms),
            pl.DataFrame({"nominal_ms": nominal_ms, "status": status, "normal": known.normal_of_draw[draws[3]]}),
        ],
        how="horizontal",
    ).with_columns(latency_ms=_LATENCY_MS)
    rows = columns.select(_EVENT_ID, "service", "endpoint", "tier", "status", "latency_ms")
    rests = columns.select(pl.concat_str("endpoint_json", "status_json", "latency_ms", "tail_json")).to_series()
    return Traffic(rows["event_id"].to_list(), rests.to_list(), rows)


def _draws(rng: Random, size: int) -> list[pl.Series]:
    """Columns of 16-bit draws; one call of the generator is much cheaper than one per number."""
    packed = pl.Series([rng.randbytes(2 * _DRAWS_PER_EVENT * size)])
    numbers = packed.bin.reinterpret(dtype=pl.Array(pl.UInt16, _DRAWS_PER_EVENT * size)).explode()
    return [numbers.slice(i * size, size).cast(pl.UInt32) for i in range(_DRAWS_PER_EVENT)]


def _nominal_ms(start_ms: float, ms_per_event: float, size: int) -> pl.Series:
    return pl.select((start_ms + pl.int_range(size) * ms_per_event).floor().cast(pl.Int64)).to_series()


def _id_parts(draws: list[pl.Series], nominal_ms: pl.Series) -> pl.DataFrame:
    known = tables()
    version, variant, *digits = draws
    return pl.DataFrame(
        {
            "id_time": _id_times(nominal_ms),
            "id_version": known.hex_version[version],
            "id_variant": known.hex_variant[variant],
            **{f"id_digits_{i}": known.hex_digits[draw] for i, draw in enumerate(digits)},
        }
    )


def _id_times(nominal_ms: pl.Series) -> pl.Series:
    """The first 48 bits of a UUIDv7: the time."""
    times = nominal_ms.unique(maintain_order=True)
    return pl.Series([f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-" for ms in times])[nominal_ms.rle_id()]


def _latency_ms() -> pl.Expr:
    """Log-normal; slower by day than by night, a faster wave, and one endpoint in trouble from time to time."""
    second = pl.col("nominal_ms") / 1_000
    trouble = pl.col("is_troubled") & (second % _TROUBLE_EVERY_SECONDS < _TROUBLE_SECONDS)
    log_latency = (
        pl.col("log_median")
        + pl.col("sigma") * pl.col("normal")
        + pl.col("log_status_factor")
        + pl.col("log_tier_factor")
        + 0.25 * (second * (tau / _DAY_SECONDS)).sin()
        + 0.15 * (second * (tau / _WAVE_SECONDS)).sin()
        + trouble.cast(pl.Float64) * log(_TROUBLE_FACTOR)
    )
    return log_latency.exp().clip(_SMALLEST_MS).round(3)


_LATENCY_MS = _latency_ms()
_EVENT_ID = pl.concat_str("^id_.*$").alias("event_id")
