"""`bench`: every test runs once on the models, once on the real engines."""

from collections.abc import Iterator

import pytest

from tests.models.benches import Bench, ModelBench, RealBench


@pytest.fixture(params=["model", pytest.param("real", marks=[pytest.mark.engines, pytest.mark.quick])])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    made: Bench = ModelBench() if request.param == "model" else RealBench(request.getfixturevalue("settings"))
    yield made
    made.close()
