"""Is what a server prints what we wrote? Servers rewrite types, codecs and expressions. Pure."""

import re

_INTERVAL = re.compile(r"INTERVAL (\d+) (SECOND|MINUTE|HOUR|DAY|WEEK|MONTH|QUARTER|YEAR)\b")
_DAYS = {"Day": 1, "Week": 7, "Year": 365}
_BITS = re.compile(r"(UInt|Int|Float)(\d+)")
_LOW_CARDINALITY = re.compile(r"LowCardinality\(((?:[^()]|\([^()]*\))*)\)")


def canonical(expression: str) -> str:
    """Equal for expressions that mean the same, of those that we write."""
    text = _INTERVAL.sub(lambda m: f"toInterval{m[2].capitalize()}({m[1]})", expression)
    text = re.sub(r"\s+", "", text)
    while text.startswith("(") and _closes(text) == len(text) - 1:
        text = text[1:-1]
    return text


def days_of(ttl: str) -> int:
    """How long a TTL keeps rows; 0 where that is not for sure."""
    found = re.findall(r"toInterval(\w+)\((\d+)\)", canonical(ttl))
    return int(found[0][1]) * _DAYS.get(found[0][0], 0) if len(found) == 1 else 0


def same_codec(found: str, wanted: str) -> bool:
    """A codec without arguments is printed with the server's: `Delta` as `Delta(8)`."""
    ours, theirs = split(wanted), split(found.removeprefix("CODEC(").removesuffix(")") if found else "")
    if theirs == ["Default"]:
        theirs = []
    return len(ours) == len(theirs) and all(
        our == their or our == their.split("(", 1)[0] for our, their in zip(ours, theirs, strict=True)
    )


def same_engine(found: str, wanted: str) -> bool:
    """Replicated and shared variants are the same to us: their paths are the server's business."""
    return _plain(found) == _plain(wanted)


def is_wider(wider: str, narrower: str) -> bool:
    """Can each value of the one type be held by the other, and stay what it is?"""
    wider, narrower = _without_low_cardinality(wider), _without_low_cardinality(narrower)
    if wider == narrower:
        return True
    nested = re.fullmatch(r"(Array|Nullable)\((.*)\)", wider)
    inner = re.fullmatch(r"(Array|Nullable)\((.*)\)", narrower)
    if nested and nested[1] == "Nullable" and not inner:
        return is_wider(nested[2], narrower)
    if nested and inner and nested[1] == inner[1]:
        return is_wider(nested[2], inner[2])
    if wider == "String":
        # Text of a number or an id; the text of a compound one is not what it was.
        return "(" not in narrower or narrower.startswith("FixedString(")
    to, of = _BITS.fullmatch(wider), _BITS.fullmatch(narrower)
    if to is None or of is None:
        return False
    return int(to[2]) > int(of[2]) and (to[1] == of[1] or (to[1], of[1]) == ("Int", "UInt"))


def split(text: str, separator: str = ",") -> list[str]:
    """At separators that are in no parentheses and no quotes; without blanks around the parts."""
    parts, depth, in_text, start = [], 0, False, 0
    for at, character in enumerate(text):
        if character == "'" and text[at - 1 : at] != "\\":
            in_text = not in_text
        elif not in_text:
            depth += (character in "([") - (character in ")]")
            if character == separator and depth == 0:
                parts.append(text[start:at].strip())
                start = at + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts


def _closes(text: str) -> int:
    """Where the parenthesis that `text` begins with is closed."""
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return at
    return -1


def _plain(engine: str) -> tuple[str, tuple[str, ...]]:
    name, _, arguments = engine.partition("(")
    name = re.sub(r"^(Replicated|Shared)", "", name)
    given = split(arguments.removesuffix(")"))
    return name, tuple(argument for argument in given if not argument.startswith("'"))


def _without_low_cardinality(kind: str) -> str:
    return _LOW_CARDINALITY.sub(r"\1", kind.replace(" ", ""))
