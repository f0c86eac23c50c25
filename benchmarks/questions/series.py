"""The catalog as series: one per combination of a cube's dimensions, with its traffic and latencies."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log, sqrt
from statistics import fmean

from metrics_pipeline.lab.loadgen.catalog import REGIONS, SERVICES, TIERS, Endpoint, endpoints
from metrics_pipeline.rollups.cubes import CUBES, ENDPOINTS, Cube

EVENTS_PER_SECOND = 40_000
_TIER_FACTORS = {"free": 1.1, "pro": 1.0, "enterprise": 0.85}


@dataclass(frozen=True, slots=True)
class Series:
    """`share` is of all requests; latencies are log-normal (logarithms of ms), a group's as wide as all members'."""

    cube: str
    dimensions: dict[str, str]
    share: float
    log_median: float
    sigma: float


def make_series() -> list[Series]:
    """All series of all cubes: 3,000 of endpoints, 480 of regions, 120 of services, 12 of totals."""
    known = endpoints()
    return [series for cube in CUBES for series in _series_of(cube, known)]


def _series_of(cube: Cube, known: Sequence[Endpoint]) -> Iterator[Series]:
    total = sum(e.weight for e in known)
    regions = REGIONS if "region" in cube.dimensions else {"": 100}
    for names, members in _groups(cube, known):
        share, (log_median, sigma) = sum(e.weight for e in members) / total, _mixture(members)
        for region, region_percent in regions.items():
            for tier, percent in TIERS.items():
                dimensions = {**names, "region": region, "tier": tier}
                yield Series(
                    cube.name,
                    {name: dimensions[name] for name in cube.dimensions},
                    share * percent / 100 * region_percent / 100,
                    log_median + log(_TIER_FACTORS[tier]),
                    sigma,
                )


def _groups(cube: Cube, known: Sequence[Endpoint]) -> Iterator[tuple[dict[str, str], Sequence[Endpoint]]]:
    if cube is ENDPOINTS:
        yield from (({"service": e.service, "endpoint": e.path, "method": e.method}, [e]) for e in known)
    elif "service" in cube.dimensions:
        yield from (({"service": service}, [e for e in known if e.service == service]) for service in SERVICES)
    else:
        yield {}, known


def _mixture(members: Sequence[Endpoint]) -> tuple[float, float]:
    """Mean and deviation of the logarithms of all members' latencies."""
    weights = [e.weight for e in members]
    mean = fmean([log(e.median_ms) for e in members], weights)
    return mean, sqrt(fmean([e.sigma**2 + (log(e.median_ms) - mean) ** 2 for e in members], weights))
