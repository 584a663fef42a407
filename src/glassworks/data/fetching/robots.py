"""Opt-outs of a web server: robots.txt (RFC 9309) and the header X-Robots-Tag.

The standard library's robotparser is not used: it takes `*` and `$` in a path literally, and `Disallow: /*.jpg$` is how a
host excludes its images.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

OPT_OUTS = ("noai", "noimageai", "noindex", "noimageindex")
"""Directives of X-Robots-Tag that exclude an image; img2dataset has the same list."""
LONGEST = 500 * 1024
"""Bytes of a robots.txt that are read: the limit that RFC 9309 asks for."""


class Rule(NamedTuple):
    """A line of a group."""

    pattern: str
    allow: bool


class Robots:
    """The rules of a robots.txt for one user agent."""

    def __init__(self, text: str, agent: str) -> None:
        """`agent` is the product token, such as `glassworks`."""
        groups = list(_groups(text))
        own = [rule for agents, rules in groups if agent.lower() in agents for rule in rules]
        named = any(agent.lower() in agents for agents, _ in groups)
        rules = own if named else [rule for agents, rules in groups if "*" in agents for rule in rules]
        self._rules = [
            (len(pattern.encode()), allow, [_normal(piece) for piece in pattern.removesuffix("$").split("*")], end)
            for pattern, allow in rules
            for end in (pattern.endswith("$"),)
        ]

    def allows(self, url: str) -> bool:
        """Whether the longest rule that matches the path of `url` allows it. Of equally long rules, one that allows wins."""
        parts = urlsplit(url)
        path = _normal(parts.path or "/") + (f"?{_normal(parts.query)}" if parts.query else "")
        found = [(length, allow) for length, allow, pieces, end in self._rules if _matches(pieces, end, path)]
        return max(found)[1] if found else True


def opt_out(headers: Iterable[str], agent: str) -> str | None:
    """The first directive in the values of X-Robots-Tag that excludes an image for everyone or for `agent`."""
    for header in headers:
        token = None
        for part in header.split(","):
            name, colon, rest = part.partition(":")
            if colon and name.strip().lower() not in ("unavailable_after", "max-snippet", "max-image-preview"):
                token, part = name.strip().lower(), rest
            directive = part.strip().lower()
            if directive in OPT_OUTS and token in (None, "*", agent.lower()):
                return directive
    return None


def _groups(text: str) -> Iterable[tuple[list[str], list[Rule]]]:
    """The user agents and the rules of each group."""
    agents: list[str] = []
    rules: list[Rule] = []
    open_list = True
    for line in text.removeprefix("\ufeff").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            if not open_list:
                yield agents, rules
                agents, rules = [], []
            open_list = True
            agents.append(re.match(r"[a-zA-Z_-]*|", value).group().lower() or value)  # type: ignore[union-attr]
        elif key in ("allow", "disallow"):
            open_list = False
            if value:
                rules.append(Rule(value, key == "allow"))
    yield agents, rules


def _matches(pieces: list[str], end: bool, path: str) -> bool:
    """Whether a path begins with the first piece and holds the others in order, the last at its end if `end`.

    Each piece is looked for from the left, in linear time: a regular expression could be made to take forever.
    """
    if not path.startswith(pieces[0]):
        return False
    at = len(pieces[0])
    if end and len(pieces) == 1:
        return at == len(path)
    last = len(pieces) - 1
    for number, piece in enumerate(pieces[1:], start=1):
        if end and number == last:
            return path.endswith(piece) and len(path) - len(piece) >= at
        if (found := path.find(piece, at)) < 0:
            return False
        at = found + len(piece)
    return True


def _normal(text: str) -> str:
    """A path or a part of one in one spelling: percent signs stand only for what a URL cannot hold."""
    return quote(unquote(text, errors="surrogateescape"), safe="/?&=+$,;:@!~*'()-._", errors="surrogateescape")
