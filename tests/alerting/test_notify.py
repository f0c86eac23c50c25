"""Messages on their way to real receivers, and what is said where they don't arrive."""

import logging

import pytest

from metrics_pipeline.alerting import notify
from metrics_pipeline.alerting.kind import Severity
from metrics_pipeline.alerting.message import Message
from metrics_pipeline.alerting.notify import ATTEMPTS, MAX_DESTINATIONS, deliver
from tests.worlds.receivers import http_receiver, silent_address, smtp_receiver

MESSAGE = Message(
    "metrics-pipeline critical: runs fail (drain)", "first line\n\nsecond line <b> & more", Severity.CRITICAL
)
RESOLVED = Message("metrics-pipeline resolved: runs fail (drain)", "it is over", None)
SECRET = "-".join(("s3cr3t", "token", "of", "ours"))


def test_a_webhook_gets_title_body_and_type() -> None:
    with http_receiver() as receiver:
        (delivery,) = deliver(MESSAGE, [receiver.url], timeout_seconds=5)
        (resolved,) = deliver(RESOLVED, [receiver.url], timeout_seconds=5)
    assert delivery.problem is None
    assert resolved.problem is None
    assert delivery.destination == "destination 1 (JSON)"
    posted, over = receiver.received
    assert (posted["title"], posted["message"], posted["type"]) == (MESSAGE.title, MESSAGE.body, "failure")
    assert over["type"] == "success"


def test_a_mail_has_subject_and_readable_lines() -> None:
    with smtp_receiver() as receiver:
        (delivery,) = deliver(MESSAGE, [receiver.url], timeout_seconds=5)
    assert delivery.problem is None
    (mail,) = receiver.received
    assert mail["subject"] == MESSAGE.title
    assert "oncall@example.com" in mail["to"]
    body = mail.get_body(("plain", "html"))
    assert body is not None
    content = body.get_content()
    assert "second line" in content
    assert "<br" in content or "first line\n" in content.replace("\r\n", "\n")


def test_wrong_destinations_are_one_clear_line_each_and_the_others_arrive(
    caplog: pytest.LogCaptureFixture, dead_address: str
) -> None:
    refused = f"json://user:{SECRET}@{dead_address}/{SECRET}"
    caplog.set_level(logging.DEBUG)
    with http_receiver(f"/{SECRET}") as broken, http_receiver() as good:
        broken.status = 500
        urls = [refused, f"nonsense://{SECRET}", broken.url, good.url, SECRET]
        deliveries = deliver(MESSAGE, urls, timeout_seconds=5)
    problems = [d.problem for d in deliveries]
    assert problems[3] is None
    assert len(good.received) == 1
    assert broken.attempts == ATTEMPTS
    assert "500" in (problems[2] or "")
    assert "METRICS_ALERTS__DESTINATIONS" in (problems[1] or "")
    for delivery in deliveries[:3]:
        assert delivery.problem
        assert "\n" not in delivery.problem
    said = " ".join(f"{d.destination} {d.problem}" for d in deliveries)
    assert SECRET not in said
    assert SECRET not in caplog.text


def test_a_destination_that_accepts_and_never_answers_does_not_hold_up() -> None:
    with silent_address() as silent, http_receiver() as good:
        stuck, arrived = deliver(MESSAGE, [f"json://{silent}", good.url], timeout_seconds=2)
    assert stuck.problem
    assert arrived.problem is None


def test_all_destinations_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own timeout would be an hour."""
    monkeypatch.setattr(notify, "LIMIT_SECONDS", 0.3)
    with silent_address() as silent:
        (stuck,) = deliver(MESSAGE, [f"json://{silent}"], timeout_seconds=3_600)
    assert "in time" in (stuck.problem or "")


def test_only_so_many_destinations_are_served() -> None:
    with http_receiver() as receiver:
        deliveries = deliver(MESSAGE, [receiver.url] * (MAX_DESTINATIONS + 2), timeout_seconds=5)
    assert len(receiver.received) == MAX_DESTINATIONS
    assert deliveries[-1].problem


def test_services_that_open_an_incident_per_message_are_not_told_of_ends() -> None:
    (delivery,) = deliver(RESOLVED, ["pagerduty://integration-key@api-key"], timeout_seconds=1)
    assert delivery.problem is None
