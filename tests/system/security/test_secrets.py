"""Secrets in files, as Kubernetes and Docker mount them."""

from pathlib import Path

import pytest

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import clickhouse_url, load_settings

URL = "https://writer:s3cret@clickhouse:8443/metrics"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A volume of a Secret: each key is a link into a folder with a time for a name, so that it changes at once."""
    folder, data = tmp_path / "secrets", tmp_path / "secrets" / "..2026_11_25"
    data.mkdir(parents=True)
    (folder / "..data").symlink_to(data.name)
    for name, value in {"clickhouse__url": f"{URL}\n", "kafka__sasl_password": "pa55word"}.items():
        (data / name).write_text(value)
        (folder / name).symlink_to(Path("..data") / name)
    monkeypatch.setenv("METRICS_SECRETS_DIR", str(folder))
    return folder


def test_values_are_read_from_files(mounted: Path) -> None:
    settings = load_settings()
    assert clickhouse_url(settings) == URL
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == "pa55word"


def test_the_environment_goes_first(mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_CLICKHOUSE__URL", "http://localhost:8123/other")
    assert clickhouse_url(load_settings()) == "http://localhost:8123/other"


def test_no_text_tells_them(mounted: Path) -> None:
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "s3cret" not in text
        assert "pa55word" not in text


def test_a_wrong_secret_is_named_and_not_told(mounted: Path) -> None:
    (mounted / "..data" / "clickhouse__url").write_text("ftp://writer:s3cret@clickhouse")
    with pytest.raises(ConfigurationError, match="METRICS_CLICKHOUSE__URL: must look like") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)


def test_a_folder_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METRICS_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match=r"METRICS_SECRETS_DIR: .*nowhere"):
        load_settings()


@pytest.mark.parametrize("value", ["http://writer:s3cret@clickhouse", '["ftp://writer:s3cret@clickhouse"]', "[1]"])
def test_wrong_servers_of_a_cluster_are_named_and_not_told(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("METRICS_CLICKHOUSE__CLUSTER", "events")
    monkeypatch.setenv("METRICS_CLICKHOUSE__SERVERS", value)
    with pytest.raises(ConfigurationError, match="METRICS_CLICKHOUSE__SERVERS") as refused:
        load_settings()
    assert "s3cret" not in str(refused.value)
    assert "SECRETS_DIR" not in str(refused.value)
