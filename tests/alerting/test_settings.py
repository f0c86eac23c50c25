"""Settings of alerts: policies are made of them by name, and destinations stay secret."""

from dataclasses import fields

import pytest

from metrics_pipeline.alerting.notifications import NoticePolicy
from metrics_pipeline.alerting.rules import AlertPolicy
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.settings import AlertSettings, destination_urls, load_settings

HIDDEN = "-".join(("a", "hidden", "token"))


@pytest.mark.parametrize("policy", [AlertPolicy, NoticePolicy])
def test_each_field_of_a_policy_is_a_setting(policy: type) -> None:
    assert {field.name for field in fields(policy)} <= set(AlertSettings.model_fields)


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
