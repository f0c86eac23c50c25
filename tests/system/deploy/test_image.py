"""The image and the stack around it, as far as they can be checked without a container engine."""

import json
import re
import shlex
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from deploy.generate.provisioning import files as grafana_files
from metrics_pipeline.cli import app
from metrics_pipeline.settings import load_settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def test_the_dockerfile_has_no_lint() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_what_the_dockerfile_copies_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert copied
    for path in " ".join(copied).split():
        assert (ROOT / path).exists(), path


@pytest.mark.long
def test_a_fresh_environment_of_the_image_runs(tmp_path: Path) -> None:
    """The Dockerfile's steps: the locked packages with hashes, then the wheel, built by what the lock has."""
    uv = Path(sys.executable).with_name("uv")
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"],
        [uv, "pip", "sync", "--quiet", "--require-hashes", "--python", python, DEPLOY / "requirements.lock"],
        [uv, "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", python, ROOT],
    ):
        subprocess.run(command, check=True, timeout=250)
    # Not from the checkout: it must be in the wheel.
    script = (
        "import metrics_pipeline.definitions as d, dagster_postgres; print(len(list(d.defs.resolve_all_job_defs())))"
    )
    done = subprocess.run(
        [python, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    told = subprocess.run([python.with_name("metrics-pipeline"), "--version"], capture_output=True, check=True)
    assert told.stdout.decode().strip() == version("metrics-pipeline")


@pytest.mark.long
def test_the_wheel_gives_the_command_line_as_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uv = Path(sys.executable).with_name("uv")
    monkeypatch.setenv("UV_TOOL_DIR", str(tmp_path / "tools"))
    monkeypatch.setenv("UV_TOOL_BIN_DIR", str(tmp_path / "bin"))
    wheels = tmp_path / "wheels"
    locked = DEPLOY / "requirements.lock"
    for command in (
        [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "-o", wheels, ROOT],
        [uv, "tool", "install", "--quiet", "--python", sys.executable, "--constraints", locked],
    ):
        if "install" in command:
            command.extend(wheels.glob("*.whl"))
        subprocess.run(command, check=True, timeout=250)
    done = subprocess.run([tmp_path / "bin" / "metrics-pipeline", "--version"], capture_output=True, check=True)
    assert done.stdout.decode().strip() == version("metrics-pipeline")


@pytest.mark.long
def test_wheel_and_source_archive_hold_the_licence_and_name_it(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    build = [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "-o", tmp_path, ROOT]
    subprocess.run(build, check=True, timeout=250)
    text = (ROOT / "LICENSE").read_bytes()
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as files:
        (metadata,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        assert files.read(metadata.replace("METADATA", "licenses/LICENSE")) == text
        assert b"\nLicense-Expression: Apache-2.0\n" in files.read(metadata)
    with tarfile.open(source) as archive:
        held = archive.extractfile(f"{source.name.removesuffix('.tar.gz')}/LICENSE")
        assert held is not None
        assert held.read() == text


@pytest.mark.parametrize("name", OURS)
def test_a_service_of_ours_runs_what_there_is(name: str) -> None:
    service = SERVICES[name]
    command = service.get("command") or shlex.split("dagster api grpc")
    assert Path(sys.executable).with_name(command[0]).exists()
    if command[0] == "metrics-pipeline":
        words = [word for word in command[1:] if not word.startswith("-")]
        help_text = CliRunner().invoke(app, [*words[:2], "--help"], env={"COLUMNS": "200"}).stdout
        for option in (word for word in command if word.startswith("--")):
            assert option in help_text
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108 - where the container writes


def test_the_environment_of_the_stack_is_made_of_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["code"]["environment"].items():
        if name.startswith("METRICS_"):
            filled = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(value)).replace("${CLICKHOUSE_PASSWORD}", "pw")
            monkeypatch.setenv(name, filled)
    settings = load_settings()
    assert settings.kafka.bootstrap_servers == "kafka:9092"
    assert settings.kafka.topic == "events"


def test_services_wait_for_what_they_need() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            is_once = how["condition"] == "service_completed_successfully"
            assert is_once or "healthcheck" in SERVICES[other], (name, other)


def test_grafana_gets_what_its_provisioning_reads() -> None:
    wanted = set(re.findall(r"\$(GRAFANA_\w+)", "".join(map(str, grafana_files().values()))))
    assert wanted <= SERVICES["grafana"]["environment"].keys()
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert any("/var/lib/grafana/dashboards/metrics-pipeline" in path for path in mounted)


def test_the_instance_differs_from_the_local_one_in_storage_alone() -> None:
    local = yaml.safe_load((ROOT / "dagster_home" / "dagster.yaml").read_text())
    production = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())
    assert production.keys() - local.keys() == {"storage", "compute_logs", "local_artifact_storage"}
    assert {name: production[name] for name in local} == local


@pytest.mark.long
def test_the_bill_of_materials_names_what_is_locked() -> None:
    subprocess.run(["make", "--silent", "sbom"], cwd=ROOT, check=True, timeout=250)  # noqa: S607 - whichever make there is
    made = json.loads((ROOT / "dist" / "sbom.json").read_text())
    named = {f"{component['name']}=={component['version']}" for component in made["components"]}
    locked = re.findall(r"^([\w.-]+==[^\s;\\]+)", (DEPLOY / "requirements.lock").read_text(), re.MULTILINE)
    assert len(locked) > 50
    assert named >= set(locked)
