"""Inserts that a server acknowledges without having the rows."""

from collections.abc import Sequence
from typing import cast

import polars as pl
import pytest

from metrics_pipeline.delivery.inserting import MAX_ROUNDS, Inserting
from metrics_pipeline.delivery.ownership import Ownership
from metrics_pipeline.errors import ClickHouseUnavailableError
from metrics_pipeline.runtime.clock import SystemClock
from metrics_pipeline.runtime.retry import Retry

ROWS = pl.DataFrame({"row": [1, 2, 3]})


class Owner:
    """Owns everything."""

    def prove(self) -> None:
        pass


class Server:
    """Knows tokens; of `outlived` ones it lacks the rows. `answers_lost`: so many inserts fail all the same."""

    def __init__(self, outlived: Sequence[str] = (), answers_lost: int = 0) -> None:
        self.outlived = outlived
        self.answers_lost = answers_lost
        self.stored = ROWS.clear()
        self.tokens: list[str] = []
        self.looks = 0

    def write(self, rows: pl.DataFrame, token: str) -> None:
        if token not in self.tokens and token not in self.outlived:
            self.stored = pl.concat([self.stored, rows])
        self.tokens.append(token)
        if self.answers_lost:
            self.answers_lost -= 1
            raise ClickHouseUnavailableError("the answer is lost")

    def missing(self, rows: pl.DataFrame) -> pl.DataFrame:
        self.looks += 1
        return rows.join(self.stored, on="row", how="anti")

    def insert(self, *, is_repeat: bool = False) -> None:
        retry = Retry(SystemClock(), 10, lambda: False, lambda _error, _seconds: None)
        inserting = Inserting(cast("Ownership", Owner()), retry)
        inserting.insert(ROWS, "token", self.write, self.missing, is_repeat=is_repeat)


def test_an_insert_that_is_tried_once_is_believed() -> None:
    server = Server()
    server.insert()
    assert (server.tokens, server.looks) == (["token"], 0)


@pytest.mark.parametrize(("answers_lost", "is_repeat"), [(1, False), (0, True)])
def test_rows_that_are_there_after_a_repeat_are_not_inserted_again(answers_lost: int, *, is_repeat: bool) -> None:
    server = Server(answers_lost=answers_lost)
    server.insert(is_repeat=is_repeat)
    assert set(server.tokens) == {"token"}
    assert server.looks == 1
    assert server.stored.equals(ROWS)


@pytest.mark.parametrize(("answers_lost", "is_repeat"), [(1, False), (0, True)])
@pytest.mark.parametrize("outlived", [("token",), ("token", "token+1")])
def test_rows_that_their_token_outlived_are_inserted_under_another_one(
    outlived: Sequence[str], answers_lost: int, *, is_repeat: bool
) -> None:
    server = Server(outlived, answers_lost)
    server.insert(is_repeat=is_repeat)
    assert server.tokens[-1] == f"token+{len(outlived)}"
    assert server.stored.equals(ROWS)


def test_rows_that_never_come_are_said_to_be_missing() -> None:
    server = Server([f"token+{number}" for number in range(MAX_ROUNDS)] + ["token"])
    with pytest.raises(ClickHouseUnavailableError, match=r"3 rows of batch token .* system\.detached_parts"):
        server.insert(is_repeat=True)
    assert len(server.tokens) == MAX_ROUNDS
