r"""Where records of delimited text begin and end: RFC 4180, with newlines inside quoted values.

A quote opens a value only at the beginning of a cell; elsewhere in an unquoted cell it is ordinary text.
Inside a quoted value two quotes stand for one, and the closing quote is followed by a delimiter or a line
end, with blanks allowed in between. A record may span several lines. Everything else is rejected:

- `text_after_quote`: a quote inside that neither closes the value nor is doubled, as in `"5" tall"`. The
whole
  record is rejected, up to the quote that closes the value.
- `unbalanced_quote`: no quote closes the value within MAX_LINE_BYTES, or one that opens another value comes
  first, so the first was a stray character. Only that line is rejected; the next one begins a record.

A range of bytes may begin inside a record, so it is unknown whether its first line begins a record, and every
possibility is tried (`State`). Usually the text that follows contradicts all but one; otherwise text before
the range is read until all possibilities lead to the same record (`Quoting.first_record`).
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from configs.errors import DataError
from pipelines.sources.lines import MAX_LINE_BYTES

OK, UNBALANCED, TEXT_AFTER = 0, 1, 2
REASONS = {UNBALANCED: "unbalanced_quote", TEXT_AFTER: "text_after_quote"}
_OPEN = -1  # the text ends inside a value
_STRAY = -2  # the opening quote was a stray character
_BACK_BYTES = (1 << 16, 1 << 20, 1 << 23, 1 << 26)


class State(NamedTuple):
    """A state in which a line may begin."""

    quoted: bool
    """Inside a quoted value; otherwise after an escaped line end in an unquoted one."""
    fault: int = OK
    """Fault of the record so far."""


class Records(NamedTuple):
    """Records of some whole lines."""

    starts: np.ndarray
    """int64 [records] first byte."""
    ends: np.ndarray
    """int64 [records] end, without newline and carriage return."""
    lines: np.ndarray
    """int64 [records] number of the first line."""
    faults: np.ndarray
    """int8 [records] OK, UNBALANCED or TEXT_AFTER."""
    open_at: int | None
    """Where a record begins that needs more text; it is not among `records`."""


def line_bounds(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """First byte, and end without newline and carriage return, of each line: int64 [lines] each."""
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(array == 10)
    if len(array) and array[-1] != 10:
        ends = np.append(ends, len(array))
    starts = np.r_[0, ends[:-1] + 1][: len(ends)]
    returns = (ends > starts) & (array[np.maximum(ends - 1, 0)] == 13)
    return starts, ends - returns


class Quoting:
    """Finds records and cells, given a delimiter, a quote and an escape character."""

    def __init__(self, delimiter: str, quote: str | None, escape: str | None):
        self.delimiter = delimiter.encode()
        self.quote = quote.encode() if quote else None
        self.escape = escape.encode() if escape else None
        # With an escape, the first group is empty where an escaped character must be skipped.
        ends = b"(" + re.escape(self.delimiter) + b"|\n)"
        self._bare = re.compile((re.escape(self.escape) + b"(?:\r\n|(?s:.))|" if self.escape else b"") + ends)
        blank = b"|".join(b for b in (b" ", b"\t") if b not in self.delimiter)
        ends = re.escape(self.delimiter) + rb"|\r?\n|\r?\Z"
        self._after = re.compile((b"(?:" + blank + b")*" if blank else b"") + b"(?:" + ends + b")")

    @property
    def states(self) -> list[State]:
        """The states in which a line inside a record may begin."""
        quoted = [State(True), State(True, TEXT_AFTER)] if self.quote else []
        return quoted + ([State(False), State(False, TEXT_AFTER)] if self.escape else [])

    def may_span(self, data: bytes) -> bool:
        """Whether some record of these lines may span several lines or have a fault; False is certain."""
        if self.escape and self.escape in data:
            return True
        return self.quote is not None and self.quote in data and not self._encloses_cells(data)

    def records(self, data: bytes, final: bool) -> Records:
        """Records of whole lines, the first of which begins a record.

        Args:
          final: no more text follows.
        """
        starts, ends = line_bounds(data)
        ends, faults, first = ends.copy(), np.zeros(len(starts), np.int8), np.ones(len(starts), bool)
        free, open_at = 0, None
        for line in self._odd_lines(data, starts, ends).tolist():
            start = int(starts[line])
            if line < free or ends[line] - start > MAX_LINE_BYTES:
                continue
            end, fault = self._scan(data, start)
            if end == _OPEN and not final:
                open_at = start
                first[line:] = False
                break
            if end < 0:
                faults[line] = self._scan(data[start : ends[line]], 0)[1] or UNBALANCED
                continue
            last = int(np.searchsorted(starts, end, "right")) - 1
            faults[line], ends[line] = fault, ends[last]
            first[line + 1 : last + 1] = False
            free = last + 1
        lines = np.flatnonzero(first)
        return Records(starts[lines], ends[lines], lines, faults[lines], open_at)

    def first_record(self, data: bytes, at: int, before: Callable[[int], bytes]) -> int:
        """Position in `data` where the first record of a range begins; beyond its end if none does.

        Args:
          data: whole lines from byte `at` of the file on, with MAX_LINE_BYTES after the range.
          before: given a number of bytes, returns the whole lines that begin within it before `at`.

        Raises:
          DataError: 64 MiB of text before the range are ambiguous.
        """
        if not at or not self.continuations(data, final=True):
            return 0
        data = data[: data.find(b"\n", MAX_LINE_BYTES + 1) + 1] or data  # no record at the start is longer
        for size in _BACK_BYTES:
            earlier = before(size)
            whole = earlier + data
            found = {self._next_record(whole, 0, len(earlier))}
            if size < at:
                ends = self.continuations(whole, final=True)
                found |= {self._next_record(whole, end, len(earlier)) for end in ends}
            if len(found) == 1:
                return found.pop() - len(earlier)
        raise DataError(
            f"cannot tell from {_BACK_BYTES[-1] >> 20} MiB before byte {at} whether it is in a quoted value; "
            "it; set source.quote: null if quotes are ordinary text"
        )

    def continuations(self, data: bytes, final: bool) -> set[int]:
        """Where records may begin next if the first line does not begin one; empty: it does."""
        found = set()
        for state in self.states:
            end, _ = self._scan(data, 0, state)
            if end == _OPEN and not final:
                found.add(len(data))
            elif end >= 0:
                found.add(end + 1)
        return found

    def _next_record(self, data: bytes, start: int, goal: int) -> int:
        """First record at or after `goal`, given that one begins at `start`."""
        if start >= goal:
            return start
        starts = self.records(data[start:], final=True).starts + start
        later = starts[starts >= goal]
        return int(later[0]) if len(later) else len(data)

    def cells(self, record: bytes) -> list[bytes]:
        """Values of a good record."""
        values = []
        for start, closed, end in self._spans(record):
            value = record[start:end]
            if self.quote and closed > start:
                inside = record[start + 1 : closed - 1].replace(self.quote * 2, self.quote)
                value = inside + record[closed:end]
            values.append(self._unescaped(value, rb"\1"))
        return values

    def has_bare_return(self, record: bytes) -> bool:
        """Whether a good record has a carriage return outside quoted values."""
        bare = b"".join(record[closed:end] for _, closed, end in self._spans(record))
        return b"\r" in self._unescaped(bare, b"")

    def _unescaped(self, value: bytes, form: bytes) -> bytes:
        return re.sub(re.escape(self.escape) + b"(?s:(.))", form, value) if self.escape else value

    def _spans(self, record: bytes) -> Iterator[tuple[int, int, int]]:
        """For each cell of a record: its start, the position after its closing quote (or its start), its
        end."""
        at = 0
        while True:
            start = closed = at
            if self.quote and record.startswith(self.quote, at):
                closed = max(start, self._close(record, at + 1, len(record) + 1, OK)[0])
            at = closed
            while (found := self._bare.search(record, at)) and found.group(1) != self.delimiter:
                at = found.end()
            yield start, closed, found.start() if found else len(record)
            if not found:
                return
            at = found.end()

    def _scan(self, data: bytes, start: int, state: State | None = None) -> tuple[int, int]:
        """End of the record that contains `start`, before its newline, or _OPEN or _STRAY; and its fault."""
        at, stop = start, start + MAX_LINE_BYTES
        quoted, fault = (state.quoted, state.fault) if state else (False, OK)
        begins_cell = state is None
        while True:
            if quoted or (begins_cell and self.quote and data.startswith(self.quote, at)):
                at, fault = self._close(data, at if quoted else at + 1, stop, fault)
                if at < 0:
                    return at, fault
            quoted, begins_cell = False, True
            found = self._bare.search(data, at)
            while found and found.group(1) is None:  # an escaped character
                at = found.end()
                found = self._bare.search(data, at)
            end = found.start() if found else len(data)
            if end > stop + 1:  # a carriage return before the newline is not part of the record
                return _STRAY, fault
            if found is None:
                is_open = data.endswith(b"\n") or (self.escape and self._is_escaped(data, end, start))
                return (_OPEN if is_open else end), fault  # an escape at the end waits for more text
            if found.group(1) == b"\n":
                return end, fault
            at = found.end()

    def _close(self, data: bytes, at: int, stop: int, fault: int) -> tuple[int, int]:
        """Position after the quote that closes the value around `at`, or _OPEN or _STRAY; and the fault."""
        assert self.quote is not None
        begin = at
        while True:
            found = data.find(self.quote, at, stop)
            if found < 0:
                return (_OPEN if len(data) < stop else _STRAY), fault
            at = found + 1
            if self.escape and self._is_escaped(data, found, begin):
                continue
            if data.startswith(self.quote, at):
                at += 1
            elif self._after.match(data, at):
                # After an undoubled quote, \" is more likely another undoubled quote than the end.
                if not fault or data[found - 1 : found] != b"\\":
                    return at, fault
            elif not found or data.endswith((self.delimiter, b"\n"), 0, found):
                return _STRAY, fault
            else:
                fault = TEXT_AFTER

    def _is_escaped(self, data: bytes, at: int, begin: int) -> bool:
        assert self.escape is not None
        count = at
        while count > begin and data.startswith(self.escape, count - 1):
            count -= 1
        return (at - count) % 2 == 1

    def _encloses_cells(self, data: bytes) -> bool:
        """Whether the quotes just enclose whole cells of one line; False is not certain."""
        if len(self.delimiter) > 1:
            return not len(self._odd_lines(data, *line_bounds(data)))
        assert self.quote is not None
        array = np.frombuffer(data, np.uint8)
        quote = self.quote[0]
        places = np.flatnonzero((array == quote) | (array == 10))
        is_quote = array[places] == quote
        quotes = places[is_quote]
        # The number of quotes before each line end, and in all, is even.
        if len(quotes) % 2 or (np.cumsum(is_quote, dtype=np.int32)[~is_quote] & 1).any():
            return False
        beside = np.zeros(256, bool)
        beside[[self.delimiter[0], 10, quote]] = True
        opens, closes = quotes[::2], quotes[1::2] + 1
        if not beside[array[opens[1:] - 1]].all() or (opens[0] and not beside[array[opens[0] - 1]]):
            return False
        closes = closes[:-1] if closes[-1] == len(array) else closes
        wrong = closes[~beside[array[closes]]]  # a carriage return is fine before a line end
        return bool(((array[wrong] == 13) & (array[np.minimum(wrong + 1, len(array) - 1)] == 10)).all())

    def _odd_lines(self, data: bytes, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Lines (int64) whose quotes do not just enclose whole cells, and lines with an escape."""
        array = np.frombuffer(data, np.uint8)
        odd = np.zeros(len(starts) + 1, bool)
        if self.escape:
            places = np.flatnonzero(array == self.escape[0])
            odd[np.searchsorted(starts, places, "right") - 1] = True
        quotes = np.flatnonzero(array == self.quote[0]) if self.quote else np.zeros(0, np.int64)
        if len(quotes):
            line = np.searchsorted(starts, quotes, "right") - 1
            counts = np.bincount(line, minlength=len(starts))
            rank = np.arange(len(quotes)) - (np.cumsum(counts) - counts)[line]
            doubled = np.diff(quotes) == 1
            opens = (quotes == starts[line]) | self._delimiter_before(array, quotes) | np.r_[False, doubled]
            closes = (quotes + 1 >= ends[line]) | self._delimiter_after(array, quotes) | np.r_[doubled, False]
            wrong = np.where(rank % 2 == 0, ~opens, ~closes)
            odd[line[wrong]] = True
            odd[:-1] |= counts % 2 == 1
        return np.flatnonzero(odd[:-1])

    def _delimiter_before(self, array: np.ndarray, places: np.ndarray) -> np.ndarray:
        size, found = len(self.delimiter), places >= len(self.delimiter)
        for i, byte in enumerate(self.delimiter):
            found &= array[np.maximum(places - size + i, 0)] == byte
        return found

    def _delimiter_after(self, array: np.ndarray, places: np.ndarray) -> np.ndarray:
        found = places + len(self.delimiter) < len(array)
        for i, byte in enumerate(self.delimiter):
            found &= array[np.minimum(places + 1 + i, len(array) - 1)] == byte
        return found
