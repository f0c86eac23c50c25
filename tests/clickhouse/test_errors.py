"""ClickHouse's codes: which of them are the rows' fault, which pass, which need somebody."""

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from metrics_pipeline.clickhouse.errors import (
    CONFIGURATION_CODES,
    REJECTED_CODES,
    SCHEMA_CODES,
    TRANSIENT_CODES,
    translate,
)
from metrics_pipeline.errors import (
    ClickHouseUnavailableError,
    ConfigurationError,
    ForeignViewError,
    PipelineError,
    RejectedError,
    SchemaMismatchError,
)

TABLES: tuple[tuple[dict[int, str], type[PipelineError]], ...] = (
    (REJECTED_CODES, RejectedError),
    (TRANSIENT_CODES, ClickHouseUnavailableError),
    (SCHEMA_CODES, SchemaMismatchError),
    (CONFIGURATION_CODES, ConfigurationError),
)


def failed(code: int, text: str = "no") -> DatabaseError:
    error = DatabaseError(text)
    error.code = code
    return error


@pytest.mark.parametrize(("codes", "kind"), TABLES, ids=lambda value: getattr(value, "__name__", ""))
def test_every_code_becomes_the_error_of_its_table(codes: dict[int, str], kind: type[PipelineError]) -> None:
    assert {type(translate(failed(code), "inserting")) for code in codes} == {kind}


def test_no_code_stands_in_two_tables() -> None:
    listed = [code for codes, _ in TABLES for code in codes]
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize("code", [0, 1_000_000])
def test_an_unknown_code_is_taken_for_transient(code: int) -> None:
    assert isinstance(translate(failed(code), "inserting"), ClickHouseUnavailableError)


def test_a_failing_view_is_told_from_a_refused_row() -> None:
    error = translate(failed(395, "Code: 395. a teapot: while pushing to view db.teapots (…)"), "inserting")
    assert isinstance(error, ForeignViewError)
    assert "db.teapots" in str(error)


def test_a_database_that_is_not_there_is_for_a_person_to_create() -> None:
    error = translate(failed(81, "Database metrics does not exist"), "connecting")
    assert isinstance(error, SchemaMismatchError)
    assert "create the database" in str(error)


def test_which_server_of_a_cluster_is_down_is_told() -> None:
    text = "Code: 279. All connection tries failed. Log: \n\nCode: 210. refused (clickhouse-2:9000)\nStack trace:"
    assert str(translate(failed(279, text), "asking")).endswith("Log: Code: 210. refused (clickhouse-2:9000)")
    assert str(translate(failed(279, ""), "asking")) == "while asking: "
