"""Which variables of the environment are settings, which are settings misspelt, and which belong to somebody else.

A setting is METRICS_<PART>__<NAME>. In Kubernetes each pod also gets variables for each Service of its namespace, and
a Service `metrics` or `metrics-pipeline-exporter` makes some that begin with METRICS_; other programs have such names,
too.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from pydantic import ValidationError

PREFIX = "METRICS_"
SECRETS_FOLDER = f"{PREFIX}SECRETS_DIR"
SEPARATOR = "__"
_SAME_WITHOUT_SEPARATOR = 0.9
"""One or two letters differ. A lower value would take names of other programs for misspelt settings, like
METRICS_COLLECTOR_URL."""

# A Service's name never ends with a hyphen, so METRICS_CLICKHOUSE__PORT is of none.
_SERVICE = rf"{PREFIX.rstrip('_')}(_[A-Z0-9_]*[A-Z0-9])?"
_ADDRESS = r"[0-9A-Fa-f.:]+"
_SERVICE_LINKS = [
    (re.compile(f"{_SERVICE}{name}"), re.compile(value))
    for name, value in (
        ("_SERVICE_HOST", _ADDRESS),
        (r"_SERVICE_PORT(_[A-Z0-9_]+)?", r"\d+"),
        (r"_PORT(_\d+_(TCP|UDP|SCTP))?", r"(tcp|udp|sctp)://.+:\d+"),
        (r"_PORT_\d+_(TCP|UDP|SCTP)_PROTO", r"tcp|udp|sctp"),
        (r"_PORT_\d+_(TCP|UDP|SCTP)_PORT", r"\d+"),
        (r"_PORT_\d+_(TCP|UDP|SCTP)_ADDR", _ADDRESS),
    )
]


def is_setting(variable: str, value: str, known: Collection[str]) -> bool:
    """Is its value read? `known` are the names of all settings, in capitals."""
    name = variable.upper()
    if any(name == setting or name.startswith(setting + SEPARATOR) for setting in known):
        return True
    # A whole part. Only as JSON: METRICS_LOCAL=1 and METRICS_EVENTS=on are of other programs.
    return value.lstrip().startswith("{") and any(setting.startswith(name + SEPARATOR) for setting in known)


def misspelt(environment: Mapping[str, str], known: Collection[str]) -> list[str]:
    """A line for each variable that is meant to be a setting and is none."""
    lines = []
    for variable, value in sorted(environment.items()):
        name = variable.upper()
        if not name.startswith(PREFIX) or name == SECRETS_FOLDER:
            continue
        if is_setting(name, value, known) or _is_service_link(name, value):
            continue
        if SEPARATOR in name or _without_separator(name, known):
            lines.append(f"{variable} {no_setting(name, known)}")
    return lines


def no_setting(name: str, known: Collection[str]) -> str:
    """Words about a name that is no setting: which setting is meant, or else how names begin."""
    if meant := _without_separator(name, known) or _nearest(name, known):
        return f"is no setting: {meant} is; rename it, or unset it"
    parts = sorted({setting.partition(SEPARATOR)[0] for setting in known})
    return f"is no setting: unset it; settings begin with {', '.join(part + SEPARATOR for part in parts)}"


def _nearest(name: str, known: Collection[str]) -> str | None:
    """The most similar setting, compared without the prefix that all share."""
    short = {setting.removeprefix(PREFIX): setting for setting in known}
    return next((short[near] for near in get_close_matches(name.removeprefix(PREFIX), short, n=1, cutoff=0.75)), None)


def _is_service_link(name: str, value: str) -> bool:
    return any(of_name.fullmatch(name) and of_value.fullmatch(value) for of_name, of_value in _SERVICE_LINKS)


def _without_separator(name: str, known: Collection[str]) -> str | None:
    """The setting whose name this is but for the underscores, and a letter or two."""
    flat = {setting.removeprefix(PREFIX).replace(SEPARATOR, "_"): setting for setting in (*known, SECRETS_FOLDER)}
    short = re.sub("_+", "_", name.removeprefix(PREFIX)).strip("_")
    return next((flat[near] for near in get_close_matches(short, flat, n=1, cutoff=_SAME_WITHOUT_SEPARATOR)), None)


def explained(error: ValidationError, names: frozenset[str]) -> list[str]:
    """A line per wrong setting: its name, the reason, and its value unless that may be secret."""
    lines = []
    for problem in error.errors(include_url=False):
        name = PREFIX + SEPARATOR.join(str(step).upper() for step in problem["loc"])
        if problem["type"] == "extra_forbidden":
            # Of a file, or in a part that is given as JSON. Its value may be a secret, whatever it is called.
            lines.append(f"{name} {no_setting(name, names)}")
            continue
        secret = any(word in name for word in ("URL", "OPTIONS", "DESTINATIONS", "PASSWORD", "CLICKHOUSE__SERVERS"))
        if isinstance(problem["input"], dict):
            # Of a whole part: it may hold secrets.
            secret = True
        shown = "" if secret or problem["type"] == "missing" else f" (got {problem['input']!r:.80})"
        lines.append(f"{name}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return lines


def wrong_settings(lines: Iterable[str]) -> str:
    """One message of all lines."""
    return "wrong settings:\n  " + "\n  ".join(lines)
