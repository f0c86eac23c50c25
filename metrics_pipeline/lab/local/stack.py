"""What `up` starts and `down` stops, and the note in between: state.json in the home folder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from metrics_pipeline.lab.local.clickhouse import start_clickhouse
from metrics_pipeline.lab.local.dagster import start_dagster
from metrics_pipeline.lab.local.fetch import cache_folder, clickhouse_program, kafka_program
from metrics_pipeline.lab.local.kafka import start_kafka
from metrics_pipeline.lab.local.process import EngineProcess, locked
from metrics_pipeline.settings import Settings, load_settings, local_home, local_state_file
from metrics_pipeline.wiring.drain import prepare

_KAFKA_PORT, _CLICKHOUSE_PORT, _DAGSTER_PORT = 9092, 8123, 3000
"""Where they are usually found; other ports, where these are taken."""
_STOP_SECONDS = {"dagster-daemon": 40, "code-server": 40, "dagster-webserver": 40, "clickhouse": 20, "kafka": 20}
"""In the order of stopping: first nothing new is launched, then running drains flush and commit, which takes less than
40 s, then the UI goes, and the engines last."""
_DAGSTER_PROCESSES = ("dagster-daemon", "code-server", "dagster-webserver")


@dataclass(slots=True)
class State:
    """Addresses of what is up, and the processes among it that are ours."""

    addresses: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(("kafka", "clickhouse", "dagster")))
    processes: list[EngineProcess] = field(default_factory=list)

    def is_alive(self, *names: str) -> bool:
        return {p.name for p in self.processes if p.is_alive()} >= set(names)

    def note(self, name: str, address: str, *processes: EngineProcess) -> None:
        """Instead of what was noted of them before."""
        self.addresses[name] = address
        names = {p.name for p in processes}
        self.processes = [p for p in self.processes if p.name not in names] + list(processes)


def up(*, engines_only: bool, say: Callable[[str], None] = lambda _text: None) -> dict[str, str | None]:
    """Start what the settings don't place elsewhere and isn't up yet; returns the addresses when all answer.

    Topic and schema are there before Dagster starts. What this call started is stopped if it fails.
    """
    given = load_settings(with_local_engines=False)
    home = local_home(given.local)
    file = local_state_file(given.local)
    with locked(home):
        state, before = _read(file), _read(file)
        try:
            _start_engines(state, given, home, say)
            _write(file, state)
            prepare(load_settings())
            if not engines_only:
                _start_dagster(state, given, home, say)
            _write(file, state)
        except BaseException:
            _stop([p for p in state.processes if p not in before.processes])
            _write(file, before)
            raise
    return state.addresses


def down(say: Callable[[str], None] = lambda _text: None) -> None:
    """Stop everything that `up` started: Dagster first, so that running drains flush into living engines."""
    given = load_settings(with_local_engines=False)
    home = local_home(given.local)
    if not home.is_dir():
        return
    with locked(home):
        file = local_state_file(given.local)
        _stop(_read(file).processes, say)
        file.unlink(missing_ok=True)


def running() -> State:
    return _read(local_state_file(load_settings(with_local_engines=False).local))


def _start_engines(state: State, given: Settings, home: Path, say: Callable[[str], None]) -> None:
    cache = cache_folder(given.local)
    if given.kafka.bootstrap_servers is not None:
        state.note("kafka", given.kafka.bootstrap_servers)
    elif not state.is_alive("kafka"):
        program = kafka_program(cache)
        say("starting Kafka")
        kafka = start_kafka(program, home / "kafka", preferred_port=_KAFKA_PORT)
        state.note("kafka", kafka.address, kafka.process)
    if given.clickhouse.url is not None:
        state.note("clickhouse", given.clickhouse.url.get_secret_value())
    elif not state.is_alive("clickhouse"):
        clickhouse_engine = clickhouse_program(cache)
        say("starting ClickHouse")
        clickhouse = start_clickhouse(clickhouse_engine, home / "clickhouse", preferred_port=_CLICKHOUSE_PORT)
        state.note("clickhouse", clickhouse.url, clickhouse.process)


def _start_dagster(state: State, given: Settings, home: Path, say: Callable[[str], None]) -> None:
    if state.is_alive(*_DAGSTER_PROCESSES):
        return
    _stop([p for p in state.processes if p.name in _DAGSTER_PROCESSES])
    say("starting Dagster")
    environment = {"METRICS_LOCAL__HOME": str(home)}
    stack = start_dagster(home / "dagster", _dagster_home(given), environment, preferred_port=_DAGSTER_PORT)
    state.note("dagster", stack.url, *stack.processes)


def _dagster_home(settings: Settings) -> Path:
    """Dagster's instance folder: as set, else dagster_home/ beside the home, as in a checkout, else in the home."""
    if settings.local.dagster_home is not None:
        return settings.local.dagster_home.expanduser().absolute()
    home = local_home(settings.local)
    beside = home.parent / "dagster_home"
    return beside if beside.is_dir() else home / "dagster_home"


def _stop(processes: list[EngineProcess], say: Callable[[str], None] = lambda _text: None) -> None:
    for process in sorted(processes, key=lambda p: list(_STOP_SECONDS).index(p.name)):
        if process.is_alive():
            say(f"stopping {process.name}")
            process.stop(_STOP_SECONDS[process.name])


_STATE = TypeAdapter(State)


def _read(file: Path) -> State:
    try:
        return _STATE.validate_json(file.read_bytes())
    except (OSError, ValueError):
        return State()


def _write(file: Path, state: State) -> None:
    staged = file.with_suffix(".new")
    staged.write_bytes(_STATE.dump_json(state, indent=2))
    staged.chmod(0o600)
    staged.replace(file)
