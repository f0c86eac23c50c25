"""The policy: what a file may say, what is wrong with it in one line each, and what holds without one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_pipeline.cli.retention import policy_text
from metrics_pipeline.errors import ConfigurationError
from metrics_pipeline.retention.policy import LEDGER_MARGIN_DAYS, Policy, given_values, parse_policy
from metrics_pipeline.rollups.grains import GRAINS

NAMES = [grain.name for grain in GRAINS]
DAYS = st.integers(1, 2_000)
SERVICES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
OVERRIDES = st.dictionaries(SERVICES, st.integers(1, 300), max_size=4)


def problems(text: str) -> list[str]:
    """The lines below the one that names the file."""
    with pytest.raises(ConfigurationError) as caught:
        parse_policy(text, "policy.toml")
    first, *lines = str(caught.value).splitlines()
    assert first == "wrong retention policy in policy.toml:"
    assert all(line.startswith("  ") for line in lines)
    return [line.strip() for line in lines]


def problem(text: str) -> str:
    (only,) = problems(text)
    return only


def rollups_text(days: list[int]) -> str:
    return "[rollups]\n" + "\n".join(f'"{name}" = {kept}' for name, kept in zip(NAMES, days, strict=True))


def test_a_file_that_says_nothing_is_the_default_which_keeps_13_months() -> None:
    assert parse_policy("", "policy.toml") == parse_policy("[raw]\n[rollups]\n[runs]\n", "policy.toml") == Policy()
    assert Policy().rollups["1h"] >= 396
    assert list(Policy().rollups) == NAMES
    assert not Policy().raw.has_overrides


def test_what_a_file_does_not_give_has_its_default() -> None:
    policy = parse_policy('[raw.tiers]\nenterprise = 60\n[rollups]\n"1m" = 61\n[runs.jobs]\nmine = 5\n', "policy.toml")
    assert (policy.raw.days, policy.raw.longest_days, policy.raw.has_overrides) == (30, 60, True)
    assert policy.rollups == {**Policy().rollups, "1m": 61}
    assert (policy.runs.days_of("mine"), policy.runs.days_of("drain")) == (5, policy.runs.days)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("days = 3", "days"),
        ("[raw]\nday = 3", "raw.day"),
        ("[raw.service]\ncheckout = 3", "raw.service"),
        ("[ledger]\ndays = 400\nmonths = 3", "ledger.months"),
        ('[cold]\n"after.days" = 3', "cold.after.days"),
    ],
)
def test_an_unknown_key_is_named(text: str, name: str) -> None:
    assert problem(text).startswith(f"{name}: Extra inputs are not permitted (got ")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[raw]\ndays = 0", "raw.days: "),
        ("[raw]\ndays = 36501", "raw.days: "),
        ("[raw]\ndays = 2.5", "raw.days: "),
        ("[raw]\ndays = true", "raw.days: "),
        ('[raw]\ndays = "30"', "raw.days: "),
        ("[raw]\ndays = 2026-11-03", "raw.days: "),
        ("raw = 30", "raw: "),
        ("[raw.services]\ncheckout = -1", "raw.services.checkout: "),
        ('[raw.services]\n"" = 3', "raw.services..[key]: "),
        ("rollups = 3", "rollups: "),
        ('[rollups]\n"1h" = "long"', "rollups.1h: "),
        ("[runs]\nmost = 0", "runs.most: "),
        ('[cold]\nvolume = "cold\'; DROP"', "cold.volume: "),
        ("[net]\ndays = -1", "net.days: "),
        ("[cost]\nprice_per_gb_month = nan", "cost.price_per_gb_month: "),
    ],
)
def test_a_wrong_value_is_named_with_what_it_was(text: str, start: str) -> None:
    found = problem(text)
    assert found.startswith(start)
    assert " (got " in found


def test_what_is_no_toml_says_where() -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.toml is no TOML: .*line 2"):
        parse_policy("[raw]\ndays 3\n", "policy.toml")


def test_each_of_several_wrong_values_has_a_line() -> None:
    found = problems('[raw]\ndays = 0\n[raw.tiers]\nfree = "x"\n[ledger]\nday = 3\n')
    assert sorted(line.split(":")[0] for line in found) == ["ledger.day", "ledger.days", "raw.days", "raw.tiers.free"]


def test_a_grain_that_there_is_not_is_named_with_those_that_there_are() -> None:
    assert problem('[rollups]\n"2m" = 30') == "rollups: there is no grain 2m: 1m, 10m, 1h, 1d, 7d"


@given(st.lists(DAYS, min_size=len(NAMES), max_size=len(NAMES)), st.integers(1, 2_500), DAYS)
def test_grains_outlive_finer_ones_and_the_ledger_what_it_accounts_for(kept: list[int], ledger: int, raw: int) -> None:
    """One line for each that does not, and none of another."""
    text = f"raw.days = {raw}\nledger.days = {ledger}\n{rollups_text(kept)}"
    wrong = [f"rollups.{NAMES[at + 1]}" for at, (fine, coarse) in enumerate(pairwise(kept)) if coarse < fine]
    least = max(raw, kept[0]) + LEDGER_MARGIN_DAYS
    wrong += ["ledger.days"] * (ledger < least)
    if wrong:
        found = problems(text)
        assert [line.split(":")[0] for line in found] == wrong
        assert ledger >= least or f"at least {least}," in found[-1]
    else:
        assert list(parse_policy(text, "policy.toml").rollups.values()) == kept


def test_overrides_are_events_that_the_ledger_accounts_for() -> None:
    assert problem("[raw.services]\ncheckout = 390").startswith("ledger.days: at least 401, ")
    assert parse_policy("[raw.services]\ncheckout = 389", "policy.toml").raw.longest_days == 389


@given(OVERRIDES, OVERRIDES, OVERRIDES, st.floats(0, 1_000))
def test_a_policy_that_is_shown_is_a_file_that_says_the_same(
    services: dict[str, int], tiers: dict[str, int], jobs: dict[str, int], price: float
) -> None:
    policy = Policy.model_validate(
        {
            "raw": {"services": services, "tiers": tiers},
            "runs": {"jobs": jobs},
            "cold": {"volume": "cold"},
            "cost": {"price_per_gb_month": price},
        }
    )
    text = policy_text(policy.model_dump(), frozenset())
    assert parse_policy(text, "policy.toml") == policy
    assert "# file" not in text


def test_a_policy_that_is_shown_says_which_values_the_file_gave() -> None:
    text = '[raw]\ndays = 9\n[raw.services]\n"a.b" = 12\n[rollups]\n"1m" = 9\n'
    assert given_values(text) == {"raw.days", "raw.services.a.b", "rollups.1m"}
    shown = policy_text(parse_policy(text, "policy.toml").model_dump(), given_values(text)).splitlines()
    assert [line for line in shown if line.endswith("# file")] == [
        '"days" = 9  # file',
        '"a.b" = 12  # file',
        '"1m" = 9  # file',
    ]
