"""Ordinary events, thousands at a time: random draws look up tables, Polars puts the texts together.

A block depends on its arguments alone, so the same seed and start give the same events again.
"""

from dataclasses import dataclass
from functools import cache
from math import log, tau
from random import Random
from statistics import NormalDist

import polars as pl

from metrics_pipeline.loadgen.catalog import (
    CUSTOMERS,
    HOSTS,
    REGIONS,
    TIERS,
    TROUBLED_ENDPOINT,
    VERSIONS,
    Endpoint,
    endpoints,
    zipf_weight,
)

_DRAWS = 1 << 16
"""A random draw is an unsigned 16-bit integer: the index in a table of so many entries."""
_TAILS = 1 << 13
_STATUS_DRAWS = 1 << 12
_DRAWS_PER_EVENT = 9

_OK = {"GET": {200: 960, 304: 25, 404: 15}, "POST": {200: 700, 201: 290, 422: 10}, "PATCH": {204: 985, 409: 15}}
_ERRORS = {400: 3, 401: 2, 429: 1, 500: 2, 503: 0.7, 504: 0.5}
"""Status -> per thousand requests of an endpoint whose error_factor is 1."""

_LATENCY_FACTORS = {304: 0.5, 400: 0.3, 401: 0.2, 404: 0.6, 429: 0.1, 500: 1.5, 503: 2.0, 504: 12.0}
_TIER_FACTORS = {"free": 1.1, "pro": 1.0, "enterprise": 0.85}
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


@dataclass(frozen=True, slots=True)
class _Tables:
    """What draws look up. Series of texts are pieces of JSON; logarithms are of milliseconds or of factors."""

    endpoint_of_draw: pl.Series
    service: pl.Series
    path: pl.Series
    middle: pl.Series
    log_median: pl.Series
    sigma: pl.Series
    status_profile: pl.Series
    is_troubled: pl.Series
    status_of_draw: pl.Series
    text_of_status: pl.Series
    log_factor_of_status: pl.Series
    normal_of_draw: pl.Series
    tail: pl.Series
    tier: pl.Series
    log_factor_of_tail: pl.Series
    hex_version: pl.Series
    hex_variant: pl.Series
    hex_digits: pl.Series


def traffic(seed: int, block: int, start_ms: float, ms_per_event: float, size: int) -> Traffic:
    """The events of block number `block`, the first of them nominally at `start_ms`."""
    tables = _tables()
    draws = _draws(Random(f"{seed}/{block}"), size)
    nominal_ms = _nominal_ms(start_ms, ms_per_event, size)
    columns = _look_up(tables, draws, nominal_ms)
    texts = columns.select(
        event_id=pl.concat_str("prefix", "version", "variant", "digits_1", "digits_2", "digits_3"),
        rest=pl.concat_str("middle", "status_text", "latency_ms", "tail"),
    )
    rows = pl.DataFrame([texts["event_id"], *columns.select(_ROW_COLUMNS).get_columns()])
    return Traffic(texts["event_id"].to_list(), texts["rest"].to_list(), rows)


_ROW_COLUMNS = ("service", "endpoint", "tier", "status", "latency_ms")


def _draws(rng: Random, size: int) -> list[pl.Series]:
    """Columns of 16-bit draws; one call of the generator is much cheaper than one per number."""
    packed = pl.Series([rng.randbytes(2 * _DRAWS_PER_EVENT * size)])
    numbers = packed.bin.reinterpret(dtype=pl.Array(pl.UInt16, _DRAWS_PER_EVENT * size)).explode()
    return [numbers.slice(i * size, size).cast(pl.UInt32) for i in range(_DRAWS_PER_EVENT)]


def _nominal_ms(start_ms: float, ms_per_event: float, size: int) -> pl.Series:
    return pl.select((start_ms + pl.int_range(size) * ms_per_event).floor().cast(pl.Int64)).to_series()


def _look_up(tables: _Tables, draws: list[pl.Series], nominal_ms: pl.Series) -> pl.DataFrame:
    endpoint = tables.endpoint_of_draw.gather(draws[0])
    tail = draws[1] % _TAILS
    profile = tables.status_profile.gather(endpoint)
    status = tables.status_of_draw.gather(profile * _STATUS_DRAWS + draws[2] % _STATUS_DRAWS)
    log_latency = (
        tables.log_median.gather(endpoint)
        + tables.sigma.gather(endpoint) * tables.normal_of_draw.gather(draws[3])
        + tables.log_factor_of_status.gather(status)
        + tables.log_factor_of_tail.gather(tail)
        + _log_factor_of_time(nominal_ms, tables.is_troubled.gather(endpoint))
    )
    return pl.DataFrame(
        {
            "prefix": _id_prefixes(nominal_ms),
            "version": tables.hex_version.gather(draws[4]),
            "variant": tables.hex_variant.gather(draws[5]),
            "digits_1": tables.hex_digits.gather(draws[6]),
            "digits_2": tables.hex_digits.gather(draws[7]),
            "digits_3": tables.hex_digits.gather(draws[8]),
            "middle": tables.middle.gather(endpoint),
            "status_text": tables.text_of_status.gather(status),
            "tail": tables.tail.gather(tail),
            "service": tables.service.gather(endpoint),
            "endpoint": tables.path.gather(endpoint),
            "tier": tables.tier.gather(tail),
            "status": status,
            "latency_ms": log_latency.exp().clip(_SMALLEST_MS).round(3),
        }
    )


def _log_factor_of_time(nominal_ms: pl.Series, is_troubled: pl.Series) -> pl.Series:
    """Slower by day than by night, a faster wave, and one endpoint in trouble from time to time."""
    second = pl.col("ms") / 1_000
    trouble = pl.col("troubled") & (second % _TROUBLE_EVERY_SECONDS < _TROUBLE_SECONDS)
    factor = (
        0.25 * (second * (tau / _DAY_SECONDS)).sin()
        + 0.15 * (second * (tau / _WAVE_SECONDS)).sin()
        + pl.when(trouble).then(log(_TROUBLE_FACTOR)).otherwise(0.0)
    )
    return pl.DataFrame({"ms": nominal_ms, "troubled": is_troubled}).select(factor).to_series()


def _id_prefixes(nominal_ms: pl.Series) -> pl.Series:
    """The first 48 bits of a UUIDv7: the time."""
    runs = nominal_ms.rle().struct
    prefixes = [f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-" for ms in runs.field("value").to_list()]
    return pl.select(pl.lit(pl.Series(prefixes)).repeat_by(pl.lit(runs.field("len"))).explode()).to_series()


@cache
def _tables() -> _Tables:
    rng = Random(0)  # traffic, not secrets; the tables are the same for every seed
    known = endpoints()
    tails = _tails(rng)
    profiles = sorted({(e.method, e.error_factor) for e in known})
    statuses = [s for method, factor in profiles for s in _statuses(rng, method, factor)]
    return _Tables(
        endpoint_of_draw=pl.Series(_spread([e.weight for e in known], _DRAWS), dtype=pl.UInt32),
        service=pl.Series([e.service for e in known]),
        path=pl.Series([e.path for e in known]),
        middle=pl.Series([_middle(e) for e in known]),
        log_median=pl.Series([log(e.median_ms) for e in known]),
        sigma=pl.Series([e.sigma for e in known]),
        status_profile=pl.Series([profiles.index((e.method, e.error_factor)) for e in known], dtype=pl.UInt32),
        is_troubled=pl.Series([(e.service, e.path) == TROUBLED_ENDPOINT for e in known]),
        status_of_draw=pl.Series(statuses, dtype=pl.UInt16),
        text_of_status=pl.Series([f'{status},"latency_ms":' for status in range(600)]),
        log_factor_of_status=pl.Series([log(_LATENCY_FACTORS.get(status, 1.0)) for status in range(600)]),
        normal_of_draw=_normal_quantiles(),
        tail=pl.Series([text for text, _ in tails]),
        tier=pl.Series([tier for _, tier in tails]),
        log_factor_of_tail=pl.Series([log(_TIER_FACTORS[tier]) for _, tier in tails]),
        hex_version=pl.Series([f"7{draw >> 4:03x}-" for draw in range(_DRAWS)]),
        hex_variant=pl.Series([f"{0x8000 | draw >> 2:04x}-" for draw in range(_DRAWS)]),
        hex_digits=pl.Series([f"{draw:04x}" for draw in range(_DRAWS)]),
    )


def _middle(endpoint: Endpoint) -> str:
    return f'","service":"{endpoint.service}","endpoint":"{endpoint.path}","method":"{endpoint.method}","status":'


def _tails(rng: Random) -> list[tuple[str, str]]:
    """The document from the customer on, and the customer's tier; the same customer has always the same tier."""
    tiers = [tier for tier, percent in TIERS.items() for _ in range(percent)]
    groups = {tier: [c for c in range(CUSTOMERS) if tiers[c % 100] == tier] for tier in TIERS}
    popular = {
        tier: rng.choices(group, [zipf_weight(rank) for rank in range(len(group))], k=_TAILS)
        for tier, group in groups.items()
    }
    picked = rng.choices(list(TIERS), list(TIERS.values()), k=_TAILS)
    return [(_tail(rng, popular[tier][i], tier), tier) for i, tier in enumerate(picked)]


def _tail(rng: Random, customer: int, tier: str) -> str:
    (region,) = rng.choices(list(REGIONS), list(REGIONS.values()))
    return (
        f',"customer":{{"id":"c{customer}","tier":"{tier}"}},"region":"{region}",'
        f'"host":"web-{rng.randrange(HOSTS)}",'
        f'"attributes":{{"version":"{rng.choice(VERSIONS)}"}}}}'
    )


def _statuses(rng: Random, method: str, error_factor: float) -> list[int]:
    shares = {**_OK[method], **{status: share * error_factor for status, share in _ERRORS.items()}}
    picked = _spread(list(shares.values()), _STATUS_DRAWS)
    statuses = list(shares)
    rng.shuffle(picked)
    return [statuses[i] for i in picked]


def _spread(weights: list[float], entries: int) -> list[int]:
    """`entries` indices of `weights`, each as often as its weight says, but at least once."""
    total, seen, filled = sum(weights), 0.0, 0
    picked: list[int] = []
    for index, weight in enumerate(weights):
        seen += weight
        end = max(filled + 1, round(seen / total * entries))
        picked.extend([index] * (end - filled))
        filled = end
    return picked[:entries]


def _normal_quantiles() -> pl.Series:
    quantile = NormalDist().inv_cdf
    return pl.Series([quantile((draw + 0.5) / _DRAWS) for draw in range(_DRAWS)])
