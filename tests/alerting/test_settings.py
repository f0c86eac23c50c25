"""Settings of alerts: destinations stay secret."""

import pytest

from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import destination_urls, load_settings

HIDDEN = "-".join(("a", "hidden", "token"))


def test_destinations_are_apart_by_blanks_and_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_ALERTS__DESTINATIONS", f" slack://{HIDDEN}/b/c,d/#x \n mailto://me:{HIDDEN}@host ")
    settings = load_settings()
    assert destination_urls(settings.alerts) == (f"slack://{HIDDEN}/b/c,d/#x", f"mailto://me:{HIDDEN}@host")
    assert HIDDEN not in repr(settings)
    assert HIDDEN not in str(settings.model_dump())
    monkeypatch.setenv("METRICS_ALERTS__LAG_OFFSETS", "many")
    with pytest.raises(ConfigurationError) as raised:
        load_settings()
    assert "METRICS_ALERTS__LAG_OFFSETS" in str(raised.value)
    assert HIDDEN not in str(raised.value)


def test_without_destinations_there_are_none() -> None:
    assert destination_urls(load_settings().alerts) == ()
