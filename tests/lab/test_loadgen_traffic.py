"""Ordinary traffic: the same for the same seed, and like that of a company."""

import json
from uuid import UUID

import polars as pl
import pytest

from metrics_pipeline.lab.loadgen.catalog import SERVICES, SLOW_ENDPOINT, TIERS, TROUBLED_ENDPOINT, endpoints
from metrics_pipeline.lab.loadgen.traffic import traffic

START_MS = 1_793_700_930_123
PER_EVENT_MS = 0.025


def block(seed: int = 1, number: int = 0, size: int = 4_096, start_ms: float = START_MS) -> pl.DataFrame:
    return traffic(seed, number, start_ms, PER_EVENT_MS, size)


@pytest.fixture(scope="module")
def rows() -> pl.DataFrame:
    return pl.concat([block(number=n, start_ms=START_MS + 9_000 * n, size=16_384) for n in range(10)])


def test_the_company_has_40_services_of_25_endpoints() -> None:
    known = endpoints()
    assert len({(e.service, e.path) for e in known}) == len(known) == 1_000
    assert {sum(e.service == service for e in known) for service in SERVICES} == {25}
    assert {SLOW_ENDPOINT, TROUBLED_ENDPOINT} <= {(e.service, e.path) for e in known}


def test_the_same_arguments_give_the_same_events() -> None:
    first, again = block(), block()
    assert first.equals(again)


@pytest.mark.parametrize("other", [{"seed": 2}, {"number": 1}])
def test_seeds_and_blocks_share_nothing(other: dict[str, int]) -> None:
    assert not set(block()["event_id"]) & set(block(**other)["event_id"])
    assert not block()["rest"].equals(block(**other)["rest"])


def test_ids_are_version_7_of_their_nominal_time() -> None:
    ids = [UUID(i) for i in block()["event_id"]]
    assert len(set(ids)) == 4_096
    assert {(i.version, i.variant) for i in ids} == {(7, "specified in RFC 4122")}
    assert [i.int >> 80 for i in ids] == [int(START_MS + n * PER_EVENT_MS) for n in range(4_096)]
    assert [str(i) for i in ids] == block()["event_id"].to_list()


def test_texts_say_what_the_rows_say() -> None:
    made = block()
    for row in made.rows(named=True):
        event = json.loads('{"timestamp":"' + row["rest"])
        assert event["customer"]["tier"] == row["tier"]
        assert {k: event[k] for k in ("service", "endpoint", "status", "latency_ms")} == {
            k: row[k] for k in ("service", "endpoint", "status", "latency_ms")
        }
        assert event["method"] in {"GET", "POST", "PATCH"}
        assert event["attributes"]["version"]


def test_a_customer_has_one_tier() -> None:
    made = block(size=16_384)
    customers = pl.Series([json.loads('{"timestamp":"' + rest)["customer"]["id"] for rest in made["rest"]])
    tiers = made.select("tier", customer=customers).group_by("customer").agg(pl.col("tier").n_unique())
    assert tiers["tier"].max() == 1
    assert len(tiers) > 1_000


def test_tiers_have_their_shares(rows: pl.DataFrame) -> None:
    for tier, percent in TIERS.items():
        assert (rows["tier"] == tier).mean() == pytest.approx(percent / 100, rel=0.1)


def test_popularity_is_skewed_but_every_endpoint_is_called(rows: pl.DataFrame) -> None:
    counts = rows.group_by("service", "endpoint").len()["len"].sort(descending=True)
    assert len(counts) == 1_000
    assert 0.3 < counts.head(50).sum() / len(rows) < 0.7


def test_latencies_are_log_normal_around_each_endpoints_median(rows: pl.DataFrame) -> None:
    calm = (
        rows.filter(pl.col("status") < 300)
        .group_by("service", "endpoint")
        .agg(pl.len(), median=pl.col("latency_ms").median(), p99=pl.col("latency_ms").quantile(0.99))
    )
    busy = calm.filter((pl.col("len") > 500) & (pl.col("endpoint") != TROUBLED_ENDPOINT[1]))
    medians = {(e.service, e.path): e.median_ms for e in endpoints()}
    for row in busy.rows(named=True):
        # The waves of day and hour move all of them, by a factor of 1.5 at most.
        assert 1 / 1.7 < row["median"] / medians[row["service"], row["endpoint"]] < 1.7
        assert row["p99"] > 2 * row["median"]
    slow = calm.filter((pl.col("service") == SLOW_ENDPOINT[0]) & (pl.col("endpoint") == SLOW_ENDPOINT[1]))
    assert slow["median"].item() > 500


def test_one_endpoint_gets_into_trouble_and_out_again() -> None:
    def median_ms(start_ms: int) -> float:
        service, endpoint = TROUBLED_ENDPOINT
        mine = (pl.col("service") == service) & (pl.col("endpoint") == endpoint)
        return float(block(start_ms=start_ms, size=16_384).filter(mine)["latency_ms"].median() or 0)

    minute_and_a_half_ms = 90_000
    trouble_ms = START_MS // minute_and_a_half_ms * minute_and_a_half_ms
    assert median_ms(trouble_ms + 5_000) > 3 * median_ms(trouble_ms + 30_000)


def test_some_requests_fail(rows: pl.DataFrame) -> None:
    errors = (rows["status"] >= 500).mean()
    assert 0.001 < float(errors or 0) < 0.05
    assert {200, 201, 204, 304, 400, 401, 404, 409, 422, 429, 500, 503, 504} == set(rows["status"])


def test_an_event_has_the_size_that_all_measurements_use() -> None:
    made = block()
    overhead = len('{"event_id":"') + 36 + len('","timestamp":"2026-11-03T10:15:30.123Z')
    mean = overhead + sum(map(len, made["rest"])) / len(made)
    assert mean == pytest.approx(294, abs=10)
