"""What two settings must look like that people get wrong: a server's URL, and options of the Kafka client. Pure."""

import json
from urllib.parse import urlsplit

URL_SHAPE = (
    "must look like http://user:password@host:8123/database; in the password write # / ? [ ] as %23 %2F %3F %5B %5D"
)
OPTIONS_SHAPE = 'must be a JSON object: {"client.rack": "eu-west-1a", "socket.timeout.ms": 30000}'
_OFFSETS = "the pipeline keeps offsets by itself, and would lose or repeat events"
OWN_OPTIONS = {
    "bootstrap.servers": "set METRICS_KAFKA__BOOTSTRAP_SERVERS",
    "metadata.broker.list": "set METRICS_KAFKA__BOOTSTRAP_SERVERS",
    "group.id": "set METRICS_KAFKA__GROUP",
    "group.instance.id": "the pipeline joins no group",
    "group.protocol": "the pipeline joins no group",
    "transactional.id": "it makes sure that a shard has one owner",
    "enable.idempotence": "transactions need it",
    "isolation.level": "each client has the one that it needs",
    "auto.offset.reset": _OFFSETS,
    "enable.auto.commit": _OFFSETS,
    "enable.auto.offset.store": _OFFSETS,
    "enable.partition.eof": _OFFSETS,
}
"""Options of the Kafka client that the promise rests on, with what to say of them."""


def checked_url(text: str) -> str:
    """The URL. Raises ValueError, which tells no part of it, unless scheme, host, port and database can be read."""
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        is_whole = False
    # A password's `#`, `?` or `/` ends the host early: what follows would be asked for on another host.
    if not is_whole or set("#?") & set(text) or set("/@") & set(parts.path.strip("/")):
        raise ValueError(URL_SHAPE)
    return text


def checked_options(value: object) -> dict[str, str]:
    """Options of librdkafka, from JSON or a mapping; numbers and booleans become its texts.

    Raises ValueError for other values and for options that are the pipeline's own.
    """
    try:
        options = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise ValueError(OPTIONS_SHAPE)  # noqa: TRY004 - pydantic takes this one alone for a wrong value
    for name, option in options.items():
        if name in OWN_OPTIONS:
            raise ValueError(f"{name} is the pipeline's own: remove it; {OWN_OPTIONS[name]}")
        if not isinstance(option, str | int | float):
            raise ValueError(f"{name} must be a text, a number, true or false")  # noqa: TRY004
    return {name: option if isinstance(option, str) else json.dumps(option) for name, option in options.items()}
