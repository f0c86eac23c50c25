"""An engine as a source: one reading at a time, kept for a while, never waited for too long."""

import threading
import time

from metrics_pipeline.errors import KafkaUnavailableError
from metrics_pipeline.metrics.source import Source

LONG_SECONDS = 60.0


class Engine:
    """Answers with a count of its readings, once it is let."""

    def __init__(self) -> None:
        self.readings = 0
        self.open = threading.Event()
        self.open.set()
        self.error: Exception | None = None

    def read(self) -> int:
        assert self.open.wait(LONG_SECONDS)
        self.readings += 1
        if self.error is not None:
            raise self.error
        return self.readings


def source_of(
    engine: Engine, said: list[str], *, fresh: float = LONG_SECONDS, limit: float = LONG_SECONDS
) -> Source[int]:
    return Source("kafka", engine.read, said.append, limit, fresh)


def test_a_fresh_reading_is_served_again() -> None:
    engine = Engine()
    source = source_of(engine, [])
    assert [source.reading().figures for _ in range(5)] == [1] * 5


def test_a_stale_one_is_read_again() -> None:
    source = source_of(Engine(), [], fresh=-1)
    assert [source.reading().figures for _ in range(3)] == [1, 2, 3]


def test_an_engine_that_hangs_is_asked_once_and_served_when_it_is_back() -> None:
    engine, said = Engine(), list[str]()
    engine.open.clear()
    source = source_of(engine, said, limit=0.01)
    readings = [source.reading() for _ in range(5)]
    assert {r.problem for r in readings} == {"kafka did not answer within 0.01 s"}
    assert said == ["kafka did not answer within 0.01 s"]
    engine.open.set()
    assert source.reading(patient=True).figures == 1
    assert engine.readings == 1


def test_a_problem_is_said_once_until_it_is_another() -> None:
    engine, said = Engine(), list[str]()
    source = source_of(engine, said, fresh=-1)
    engine.error = KafkaUnavailableError("no broker")
    assert [source.reading().problem for _ in range(3)] == ["no broker"] * 3
    engine.error = ZeroDivisionError("by us")
    assert "ZeroDivisionError" in (source.reading().problem or "")
    engine.error = None
    assert source.reading().problem is None
    assert len(said) == 2


def test_several_sources_that_hang_share_one_deadline() -> None:
    engines = [Engine() for _ in range(3)]
    for engine in engines:
        engine.open.clear()
    sources = [source_of(engine, []) for engine in engines]
    past = time.monotonic() - 1
    assert all(source.reading(deadline=past).problem for source in sources)
    for engine in engines:
        engine.open.set()
    assert [source.reading(deadline=time.monotonic() + LONG_SECONDS).figures for source in sources] == [1, 1, 1]


def test_scrapes_at_once_share_one_reading() -> None:
    engine = Engine()
    engine.open.clear()
    source = source_of(engine, [])
    figures: list[int | None] = []
    scrapes = [threading.Thread(target=lambda: figures.append(source.reading().figures)) for _ in range(8)]
    for scrape in scrapes:
        scrape.start()
    engine.open.set()
    for scrape in scrapes:
        scrape.join()
    assert figures == [1] * 8
