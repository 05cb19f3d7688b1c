"""Keeps output from controlling the terminal: control characters are printed as escapes.

Keys come from a shop's customers and logs from machines, so both may contain sequences that clear the screen,
colour it, fill the clipboard or reverse the order of letters.
"""

import codecs
import contextlib
import json
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

# C0 without tab and newline, DEL and C1; marks that change the direction of text; line separators that only
# some programs treat as newlines; surrogate halves, which no encoding can write.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)
MOST_LETTERS = 4000
"""Longest error message in characters; longer ones quote input that would bury what is wrong."""


def visible(text: str) -> str:
    r"""`text` with control characters as escapes, such as \x1b and \u202e; tabs and newlines stay.

    Escapes are those of JSON, except for ASCII control characters, which JSON never contains unescaped.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def bounded(text: str, most: int = MOST_LETTERS) -> str:
    """`text`, cut in the middle if it has more than `most` characters."""
    if len(text) <= most:
        return text
    left = most // 2
    return f"{text[:left]} ... ({len(text) - 2 * left:,} characters left out) ... {text[-left:]}"


def shown(value: object, most: int = 200) -> str:
    """repr of an input value for an error message: never much longer than `most`, nor slow to compute."""
    text = _Brief(most).repr(value)
    return text if len(text) <= 2 * most else f"{text[: 2 * most]}..."


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Within the block, standard output and error pass through `visible`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Escaping, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unescaped(stream: TextIO) -> TextIO:
    """The stream itself, for the project's own control sequences: progress bars and cleared screens."""
    return stream.inner if isinstance(stream, _Escaping) else stream


class _Escaping:
    """A text stream that escapes control characters; otherwise the same as `inner`."""

    def __init__(self, inner: TextIO):
        self.inner = inner

    def write(self, text: str) -> int:
        """Writes text, as files do."""
        text = visible(text)
        encoding = getattr(self.inner, "encoding", None) or "utf-8"
        # If the locale's encoding lacks a character of a key, print its escape.
        self.inner.write(text.encode(encoding, "lazytower.json").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes lines, as files do."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Brief(reprlib.Repr):
    """A repr of bounded length and depth, whatever the value contains."""

    def __init__(self, most: int):
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxother = 3, 8, 8, most
        self.maxstring = self.maxlong = most

    def repr_int(self, value: int, level: int) -> str:
        """repr, or the number of bits for integers with more digits than Python prints."""
        if value.bit_length() > 4 * self.maxlong:
            return f"an integer of {value.bit_length():,} bits"
        return super().repr_int(value, level)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"


def _as_json(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("lazytower.json", _as_json)
