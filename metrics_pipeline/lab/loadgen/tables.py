"""Tables that random draws look up: a value has as many entries as it is frequent. The same for every seed."""

from dataclasses import dataclass
from functools import cache
from math import log
from random import Random
from statistics import NormalDist

import polars as pl

from metrics_pipeline.lab.loadgen.catalog import (
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

DRAWS = 1 << 16
"""A draw is an unsigned 16-bit integer."""
TAILS = 1 << 13
STATUS_DRAWS = 1 << 12

_OK = {"GET": {304: 25, 404: 15, 200: 960}, "POST": {422: 10, 201: 290, 200: 700}, "PATCH": {409: 15, 204: 985}}
_ERRORS = {400: 3, 401: 2, 429: 1, 500: 2, 503: 0.7, 504: 0.5}
"""Status -> per thousand requests of an endpoint whose error_factor is 1."""

_LATENCY_FACTORS = {304: 0.5, 400: 0.3, 401: 0.2, 404: 0.6, 429: 0.1, 500: 1.5, 503: 2.0, 504: 12.0}
_TIER_FACTORS = {"free": 1.1, "pro": 1.0, "enterprise": 0.85}


@dataclass(frozen=True, slots=True)
class Tables:
    """Series are indexed by a draw; frames hold one row per endpoint, status (its number), tail of a document.

    Columns named *_json are pieces of a document; logarithms are of milliseconds or of factors.
    """

    endpoint_of_draw: pl.Series
    endpoints: pl.DataFrame
    status_of_draw: pl.Series
    """Indexed by a row's `status_profile` times STATUS_DRAWS, plus a draw below STATUS_DRAWS."""
    statuses: pl.DataFrame
    tails: pl.DataFrame
    normal_of_draw: pl.Series
    hex_version: pl.Series
    hex_variant: pl.Series
    hex_digits: pl.Series


@cache
def tables() -> Tables:
    """Built once; takes about 0.1 s."""
    rng = Random(0)  # traffic, not secrets
    known = endpoints()
    profiles = sorted({(e.method, e.error_factor) for e in known})
    return Tables(
        endpoint_of_draw=pl.Series(_distributed([e.weight for e in known], DRAWS), dtype=pl.UInt32),
        endpoints=_endpoint_table(known, profiles),
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
        normal_of_draw=_normal_quantiles(),
        hex_version=pl.Series([f"7{draw >> 4:03x}-" for draw in range(DRAWS)]),
        hex_variant=pl.Series([f"{0x8000 | draw >> 2:04x}-" for draw in range(DRAWS)]),
        hex_digits=pl.Series([f"{draw:04x}" for draw in range(DRAWS)]),
    )


def _endpoint_table(known: tuple[Endpoint, ...], profiles: list[tuple[str, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "service": [e.service for e in known],
            "endpoint": [e.path for e in known],
            "endpoint_json": [
                f'","service":"{e.service}","endpoint":"{e.path}","method":"{e.method}","status":' for e in known
            ],
            "log_median": [log(e.median_ms) for e in known],
            "sigma": [e.sigma for e in known],
            "status_profile": [profiles.index((e.method, e.error_factor)) for e in known],
            "is_troubled": [(e.service, e.path) == TROUBLED_ENDPOINT for e in known],
        },
        schema_overrides={"status_profile": pl.UInt32},
    )


def _tail_table(rng: Random) -> pl.DataFrame:
    """The document from the customer on; the same customer has always the same tier."""
    tiers = [tier for tier, percent in TIERS.items() for _ in range(percent)]
    groups = {tier: [c for c in range(CUSTOMERS) if tiers[c % len(tiers)] == tier] for tier in TIERS}
    popular = {
        tier: rng.choices(group, [zipf_weight(rank) for rank in range(len(group))], k=TAILS)
        for tier, group in groups.items()
    }
    picked = rng.choices(list(TIERS), list(TIERS.values()), k=TAILS)
    return pl.DataFrame(
        {
            "tier": picked,
            "tail_json": [_tail(rng, popular[tier][i], tier) for i, tier in enumerate(picked)],
            "log_tier_factor": [log(_TIER_FACTORS[tier]) for tier in picked],
        }
    )


def _tail(rng: Random, customer: int, tier: str) -> str:
    (region,) = rng.choices(list(REGIONS), list(REGIONS.values()))
    return (
        f',"customer":{{"id":"c{customer}","tier":"{tier}"}},"region":"{region}",'
        f'"host":"web-{rng.randrange(HOSTS)}",'
        f'"attributes":{{"version":"{rng.choice(VERSIONS)}"}}}}'
    )


def _statuses(rng: Random, method: str, error_factor: float) -> list[int]:
    shares = {**{status: share * error_factor for status, share in _ERRORS.items()}, **_OK[method]}
    statuses = list(shares)
    picked = [statuses[i] for i in _distributed(list(shares.values()), STATUS_DRAWS)]
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


def _normal_quantiles() -> pl.Series:
    quantile = NormalDist().inv_cdf
    return pl.Series([quantile((draw + 0.5) / DRAWS) for draw in range(DRAWS)])
