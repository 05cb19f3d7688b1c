"""What is printed cannot steer the terminal: control characters are shown, not sent.

Keys come from the customers of a shop and logs from machines, so either may hold sequences that clear the
screen, colour it, fill the clipboard or turn the order of letters around.
"""

import codecs
import contextlib
import json
import re
import reprlib
import sys
from collections.abc import Iterator
from typing import TextIO

# C0 without tab and newline, DEL and C1; marks that change the direction of text; separators of lines that
# only some programs take for newlines; halves of surrogates, which no encoding can write.
_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]"
)
MOST_LETTERS = 4000
"""Of an error's text; what is longer came from the input, and would bury what is wrong."""


def visible(text: str) -> str:
    r"""`text` with control characters as escapes, such as \x1b and \u202e; tabs and newlines stay.

    Escapes are those of JSON but for the controls of ASCII, which never stand in JSON as they are.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def bounded(text: str, most: int = MOST_LETTERS) -> str:
    """`text`, cut in the middle when it has more than `most` letters."""
    if len(text) <= most:
        return text
    left = most // 2
    return f"{text[:left]} ... ({len(text) - 2 * left:,} characters left out) ... {text[-left:]}"


def shown(value: object, most: int = 200) -> str:
    """repr of a value from outside, for an error's line: never much longer than `most`, nor slow to make."""
    text = _Brief(most).repr(value)
    return text if len(text) <= 2 * most else f"{text[: 2 * most]}..."


@contextlib.contextmanager
def escaped_output() -> Iterator[None]:
    """Inside, what is printed to standard output and error goes through `visible`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Escaping, before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def unescaped(stream: TextIO) -> TextIO:
    """The stream itself, for sequences of the project's own: progress bars and cleared screens."""
    return stream.inner if isinstance(stream, _Escaping) else stream


class _Escaping:
    """A text stream that shows what would steer the terminal; in all else the one inside."""

    def __init__(self, inner: TextIO):
        self.inner = inner

    def write(self, text: str) -> int:
        """Takes text as files do."""
        text = visible(text)
        encoding = getattr(self.inner, "encoding", None) or "utf-8"
        # The locale's encoding may lack a letter of a key, which is no reason to print nothing.
        self.inner.write(text.encode(encoding, "lazytower.json").decode(encoding))
        return len(text)

    def writelines(self, lines) -> None:
        """Takes lines as files do."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str):
        return getattr(self.inner, name)


class _Brief(reprlib.Repr):
    """Of few members, few levels and few letters, whatever the value holds."""

    def __init__(self, most: int):
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxother = 3, 8, 8, most
        self.maxstring = self.maxlong = most

    def repr_int(self, value: int, level: int) -> str:
        """As of other values, and of one with more digits than Python writes."""
        if value.bit_length() > 4 * self.maxlong:
            return f"an integer of {value.bit_length():,} bits"
        return super().repr_int(value, level)


def _escape(match: re.Match) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 0x20 else f"\\u{code:04x}"


def _as_json(error: UnicodeError) -> tuple[str, int]:
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error("lazytower.json", _as_json)
