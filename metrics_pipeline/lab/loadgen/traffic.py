"""Ordinary events, thousands at a time: random draws look up tables, Polars puts the texts together.

A block depends on its arguments alone, so the same seed and start give the same events again.
"""

from dataclasses import dataclass
from functools import cache
from math import log, tau
from random import Random
from statistics import NormalDist

import polars as pl

from metrics_pipeline.lab.loadgen import catalog

_DRAWS_PER_EVENT = 9
_DAY_SECONDS, _WAVE_SECONDS = 86_400.0, 180.0
_TROUBLE_EVERY_SECONDS, _TROUBLE_SECONDS, _TROUBLE_FACTOR = 90, 15, 6.0
_SMALLEST_MS = 0.05

_DRAWS = 1 << 16
"""A draw is an unsigned 16-bit integer."""
_TAILS = 1 << 13
_STATUS_DRAWS = 1 << 12

_OK = {"GET": {304: 25, 404: 15, 200: 960}, "POST": {422: 10, 201: 290, 200: 700}, "PATCH": {409: 15, 204: 985}}
_ERRORS = {400: 3, 401: 2, 429: 1, 500: 2, 503: 0.7, 504: 0.5}
"""Status -> per thousand requests of an endpoint whose error_factor is 1."""

_LATENCY_FACTORS = {304: 0.5, 400: 0.3, 401: 0.2, 404: 0.6, 429: 0.1, 500: 1.5, 503: 2.0, 504: 12.0}
_TIER_FACTORS = {"free": 1.1, "pro": 1.0, "enterprise": 0.85}


def traffic(seed: int, block: int, start_ms: float, ms_per_event: float, size: int) -> pl.DataFrame:
    """The events of block number `block`, the first of them nominally at `start_ms`, without their timestamps.

    event_id (a canonical UUID), service, endpoint, tier, status, latency_ms, and `rest`: the JSON text from the end of
    the timestamp's value to the end of the document.
    """
    draws = _draws(Random(f"{seed}/{block}"), size)  # traffic, not secrets
    nominal_ms = pl.select((start_ms + pl.int_range(size) * ms_per_event).floor().cast(pl.Int64)).to_series()
    known = _tables()
    endpoint = known.endpoints[known.endpoint_of_draw[draws[0]]]
    status = known.status_of_draw[endpoint["status_profile"] * _STATUS_DRAWS + draws[1] % _STATUS_DRAWS]
    columns = pl.concat(
        [
            endpoint,
            known.statuses[status],
            known.tails[draws[2] % _TAILS],
            _id_parts(draws[4:], nominal_ms),
            pl.DataFrame({"nominal_ms": nominal_ms, "status": status, "normal": known.normal_of_draw[draws[3]]}),
        ],
        how="horizontal",
    ).with_columns(latency_ms=_latency_ms())
    event_id = pl.concat_str("^id_.*$").alias("event_id")
    rest = pl.concat_str("endpoint_json", "status_json", "latency_ms", "tail_json")
    return columns.select(event_id, "service", "endpoint", "tier", "status", "latency_ms", rest=rest)


def _draws(rng: Random, size: int) -> list[pl.Series]:
    """Columns of 16-bit draws; one call of the generator is much cheaper than one per number."""
    packed = pl.Series([rng.randbytes(2 * _DRAWS_PER_EVENT * size)])
    numbers = packed.bin.reinterpret(dtype=pl.Array(pl.UInt16, _DRAWS_PER_EVENT * size)).explode()
    return [numbers.slice(i * size, size).cast(pl.UInt32) for i in range(_DRAWS_PER_EVENT)]


def _id_parts(draws: list[pl.Series], nominal_ms: pl.Series) -> pl.DataFrame:
    known = _tables()
    version, variant, *digits = draws
    # The first 48 bits of a UUIDv7.
    times = pl.Series([f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-" for ms in nominal_ms.unique(maintain_order=True)])
    return pl.DataFrame(
        {
            "id_time": times[nominal_ms.rle_id()],
            "id_version": known.hex_version[version],
            "id_variant": known.hex_variant[variant],
            **{f"id_digits_{i}": known.hex_digits[draw] for i, draw in enumerate(digits)},
        }
    )


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


@dataclass(frozen=True, slots=True)
class _Tables:
    """A value has as many entries as it is frequent. The same for every seed.

    Series are indexed by a draw; frames hold one row per endpoint, status (its number), tail of a document.

    Columns named *_json are pieces of a document; logarithms are of milliseconds or of factors.
    """

    endpoint_of_draw: pl.Series
    endpoints: pl.DataFrame
    status_of_draw: pl.Series
    """Indexed by a row's `status_profile` times _STATUS_DRAWS, plus a draw below _STATUS_DRAWS."""
    statuses: pl.DataFrame
    tails: pl.DataFrame
    normal_of_draw: pl.Series
    hex_version: pl.Series
    hex_variant: pl.Series
    hex_digits: pl.Series


@cache
def _tables() -> _Tables:
    """Built once; takes about 0.1 s."""
    rng = Random(0)  # traffic, not secrets
    known = catalog.endpoints()
    profiles = sorted({(e.method, e.error_factor) for e in known})
    return _Tables(
        endpoint_of_draw=pl.Series(_distributed([e.weight for e in known], _DRAWS), dtype=pl.UInt32),
        endpoints=pl.DataFrame(
            {
                "service": [e.service for e in known],
                "endpoint": [e.path for e in known],
                "endpoint_json": [
                    f'","service":"{e.service}","endpoint":"{e.path}","method":"{e.method}","status":' for e in known
                ],
                "log_median": [log(e.median_ms) for e in known],
                "sigma": [e.sigma for e in known],
                "status_profile": [profiles.index((e.method, e.error_factor)) for e in known],
                "is_troubled": [(e.service, e.path) == catalog.TROUBLED_ENDPOINT for e in known],
            },
            schema_overrides={"status_profile": pl.UInt32},
        ),
        status_of_draw=pl.Series(
            [s for method, factor in profiles for s in _statuses(rng, method, factor)], dtype=pl.UInt16
        ),
        statuses=pl.DataFrame(
            {
                "status_json": [f'{status},"latency_ms":' for status in range(600)],
                "log_status_factor": [log(_LATENCY_FACTORS.get(status, 1.0)) for status in range(600)],
            }
        ),
        tails=_tail_table(rng),
        normal_of_draw=pl.Series([NormalDist().inv_cdf((draw + 0.5) / _DRAWS) for draw in range(_DRAWS)]),
        hex_version=pl.Series([f"7{draw >> 4:03x}-" for draw in range(_DRAWS)]),
        hex_variant=pl.Series([f"{0x8000 | draw >> 2:04x}-" for draw in range(_DRAWS)]),
        hex_digits=pl.Series([f"{draw:04x}" for draw in range(_DRAWS)]),
    )


def _tail_table(rng: Random) -> pl.DataFrame:
    """The document from the customer on; the same customer has always the same tier."""
    tiers = [tier for tier, percent in catalog.TIERS.items() for _ in range(percent)]
    groups = {tier: [c for c in range(catalog.CUSTOMERS) if tiers[c % len(tiers)] == tier] for tier in catalog.TIERS}
    popular = {
        tier: rng.choices(group, [catalog.zipf_weight(rank) for rank in range(len(group))], k=_TAILS)
        for tier, group in groups.items()
    }
    picked = rng.choices(list(catalog.TIERS), list(catalog.TIERS.values()), k=_TAILS)
    return pl.DataFrame(
        {
            "tier": picked,
            "tail_json": [_tail(rng, popular[tier][i], tier) for i, tier in enumerate(picked)],
            "log_tier_factor": [log(_TIER_FACTORS[tier]) for tier in picked],
        }
    )


def _tail(rng: Random, customer: int, tier: str) -> str:
    (region,) = rng.choices(list(catalog.REGIONS), list(catalog.REGIONS.values()))
    return (
        f',"customer":{{"id":"c{customer}","tier":"{tier}"}},"region":"{region}",'
        f'"host":"web-{rng.randrange(catalog.HOSTS)}",'
        f'"attributes":{{"version":"{rng.choice(catalog.VERSIONS)}"}}}}'
    )


def _statuses(rng: Random, method: str, error_factor: float) -> list[int]:
    shares = {**{status: share * error_factor for status, share in _ERRORS.items()}, **_OK[method]}
    statuses = list(shares)
    picked = [statuses[i] for i in _distributed(list(shares.values()), _STATUS_DRAWS)]
    rng.shuffle(picked)
    return picked


def _distributed(weights: list[float], entries: int) -> list[int]:
    """`entries` indices of `weights`, each as often as its weight says, but at least once.

    What rounding up takes is missing from the last one, which has to be a large one.
    """
    total, seen = sum(weights), 0.0
    picked: list[int] = []
    for index, weight in enumerate(weights):
        seen += weight
        picked.extend([index] * max(1, round(seen / total * entries) - len(picked)))
    if len(picked) != entries:
        raise ValueError(f"{len(weights)} weights don't fit {entries} entries: {len(picked)} are needed")
    return picked
