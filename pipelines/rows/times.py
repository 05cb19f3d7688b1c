"""Times in many notations as int64 nanoseconds since 1970, vectorized: a bad value costs no more than a good
one.

Text accepted with `iso8601`, with or without blanks around it: a date, 2014-07-23, at midnight UTC; or a
date, a T or one blank, hh:mm or hh:mm:ss, a fraction of the second of any length after a point or comma
(nanoseconds count), and a zone: none (UTC), Z, UTC, GMT, +02, +0200, +02:00 or +01:22:30, each with or
without a blank before it, and after it a name in brackets as Java writes it, Z[UTC] or +02:00[Europe/Paris].
Numbers in a unit may have a fraction, which is kept to the nanosecond.
"""

import decimal
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

LAST_SECOND = 9_214_646_400  # 2262-01-01: nanoseconds since 1970 still fit in int64
PER_SECOND = 10**9
LAST_TIME = LAST_SECOND * PER_SECOND
BEFORE, AFTER = -1, LAST_TIME  # represent all times out of range

_DIGITS = {"s": 9, "ms": 6, "us": 3, "ns": 0}
"""Decimal digits from a unit to nanoseconds."""
_INTEGER = r"^[+-]?[0-9]{1,18}$"
_DECIMAL = r"^[+-]?[0-9]{1,18}\.[0-9]*$"
_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?$"
_ZONE = re.compile(
    rb" ?(?:(?:Z|UTC|GMT)?|([+-])(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)(?:\[[\w/+:-]+\])?", re.IGNORECASE
)
_LONGEST_ZONE = 48
_DATE = 10  # bytes of YYYY-MM-DD


def to_nanoseconds(values: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """int64 [n] nanoseconds since 1970, and bool [n], where a value is not a time (0 there).

    Times before 1970 are BEFORE, those from 2262 on AFTER.

    Args:
      values: numbers or text in `unit` (s, ms, us, ns or iso8601), or Arrow dates and timestamps, which have
        a unit.
    """
    if pa.types.is_dictionary(values.type):
        times, bad = to_nanoseconds(values.dictionary, unit)
        codes = values.indices.fill_null(len(times)).to_numpy(zero_copy_only=False)
        return np.append(times, 0)[codes], np.append(bad, True)[codes]
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        return _from_temporal(values)
    if unit == "iso8601":
        return _from_iso8601(_text(values))
    if pa.types.is_integer(values.type):
        return _from_integers(values, unit)
    if pa.types.is_floating(values.type):
        return _from_floats(values, unit)
    return _from_decimals(_text(values), unit)


def _null(values: pa.Array) -> np.ndarray:
    return values.is_null().to_numpy(zero_copy_only=False).astype(bool)


def _text(values: pa.Array) -> pa.Array:
    """Text without outer blanks; null where it is not UTF-8."""
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        try:
            values = values.cast(pa.large_string())
        except pa.ArrowInvalid:  # times are ASCII, so any other byte makes just its value bad
            ascii_ = compute.match_substring_regex(values, rb"^[\x00-\x7f]*$").fill_null(False)
            values = compute.if_else(ascii_, values, pa.scalar(None, values.type)).cast(pa.large_string())
    return compute.utf8_trim_whitespace(values.cast(pa.large_string()))


def _scaled(whole: np.ndarray, digits: int, rest: np.ndarray | int = 0) -> np.ndarray:
    """whole * 10^digits + rest, int64, out of range as BEFORE or AFTER; `rest` is in [0, 10^digits)."""
    factor = 10**digits
    inside = (whole >= 0) & (whole < LAST_TIME // factor)
    return np.where(inside, np.where(inside, whole, 0) * factor + rest, np.where(whole < 0, BEFORE, AFTER))


def _from_temporal(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    bad = _null(values)
    if pa.types.is_date(values.type):
        values = values.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
        return np.where(bad, 0, _scaled(_filled(values) * 86_400, 9)), bad
    digits = _DIGITS[values.type.unit]
    return np.where(bad, 0, _scaled(_filled(values.cast(pa.int64())), digits)), bad


def _from_integers(values: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    bad = _null(values)
    if pa.types.is_uint64(values.type):
        values = compute.min_element_wise(values, pa.scalar(2**63 - 1, pa.uint64()), skip_nulls=False)
    return np.where(bad, 0, _scaled(_filled(values.cast(pa.int64())), _DIGITS[unit])), bad


def _filled(values: pa.Array) -> np.ndarray:
    return values.fill_null(0).to_numpy(zero_copy_only=False)


def _from_floats(values: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    """Converts whole numbers exactly, others through the shortest text that represents them."""
    values = values.cast(pa.float64())
    numbers = values.fill_null(np.nan).to_numpy(zero_copy_only=False)
    bad = ~np.isfinite(numbers) & (numbers != np.inf) & (numbers != -np.inf)
    clipped = np.clip(np.where(bad, 0.0, numbers), -1.0, 2.0**63 - 1024)
    times = _scaled(np.floor(clipped).astype(np.int64), _DIGITS[unit])
    odd = np.flatnonzero(clipped != np.floor(clipped))
    if len(odd):
        times[odd], _ = _from_decimals(pa.array(clipped[odd]).cast(pa.large_string()), unit)
    return times, bad


def _from_decimals(text: pa.Array, unit: str) -> tuple[np.ndarray, np.ndarray]:
    digits, n = _DIGITS[unit], len(text)
    times, bad = np.zeros(n, np.int64), np.ones(n, bool)
    integer = _matches(text, _INTEGER)
    if integer.any():
        whole = _integers(text.filter(pa.array(integer)) if not integer.all() else text)
        times[integer], bad[integer] = _scaled(whole, digits), False
    left = ~integer
    for row in _where_all(text, left, _DECIMAL):
        part = text.take(pa.array(row))
        halves = compute.split_pattern(part, ".", max_splits=1)
        whole, fraction = (compute.list_element(halves, i) for i in (0, 1))
        fraction = compute.utf8_slice_codeunits(fraction, 0, digits) if digits else fraction
        padded = compute.utf8_rpad(fraction, max(digits, 1), "0")
        rest = padded.cast(pa.int64()).to_numpy(zero_copy_only=False) if digits else 0
        negative = _matches(part, r"^-")
        found = np.where(negative, BEFORE, _scaled(_integers(whole), digits, rest))
        times[row], bad[row], left[row] = found, False, False
    for row in _where_all(text, left, _NUMBER + "|(?i)^[+-]?inf(inity)?$"):  # exponents, and too many digits
        encoded = text.take(pa.array(row)).dictionary_encode()
        found = np.array([_one_number(value, digits) for value in encoded.dictionary.to_pylist()])
        times[row], bad[row] = found[encoded.indices.to_numpy()], False
    return times, bad


def _matches(text: pa.Array, pattern: str) -> np.ndarray:
    found = compute.match_substring_regex(text, pattern).fill_null(False)
    return found.to_numpy(zero_copy_only=False).astype(bool)


def _where_all(text: pa.Array, left: np.ndarray, pattern: str) -> list[np.ndarray]:
    """A list with the indices of the rows of `left` that match; empty if none does."""
    rows = np.flatnonzero(left)
    if len(rows):
        rows = rows[_matches(text.take(pa.array(rows)), pattern)]
    return [rows] if len(rows) else []


def _integers(text: pa.Array) -> np.ndarray:
    """int64 of decimal digits with or without a sign."""
    return compute.utf8_ltrim(text, "+").cast(pa.int64()).to_numpy(zero_copy_only=False)


def _one_number(text: str, digits: int) -> int:
    value = decimal.Decimal(text)
    if value.is_infinite() or value.adjusted() > 25:
        return BEFORE if value < 0 else AFTER
    time = int((value.scaleb(digits)).to_integral_value(decimal.ROUND_FLOOR))
    return BEFORE if time < 0 else min(time, AFTER)


def _from_iso8601(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    bad = _null(text)
    text = text.fill_null("")
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    # NUL bytes after the last one end every value that is shorter than what is searched for.
    data = np.append(data[: offsets[-1] if len(offsets) else 0], np.zeros(1, np.uint8))
    if not len(text):
        return np.zeros(0, np.int64), bad
    return _Iso(data, offsets[:-1].copy(), offsets[1:]).parse(bad)


class _Iso:
    """Parses many texts in parallel, byte by byte; `at` is the position reached in each."""

    def __init__(self, data: np.ndarray, start: np.ndarray, end: np.ndarray):
        self._data, self._at, self._end = data, start, end

    def parse(self, bad: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        year, month, day, dates = self._date()
        bad = bad | ~dates
        seconds = _days(year, month, day) * 86_400
        bad |= ~_is_date(year, month, day)
        timed = self._at < self._end
        nanoseconds = np.zeros(len(seconds), np.int64)
        if timed.any():
            clock, fraction, right = self._clock()
            zone, known = self._zone()
            seconds += np.where(timed, clock - zone, 0)
            nanoseconds = np.where(timed, fraction, 0)
            bad |= timed & ~(right & known)
        return np.where(bad, 0, _scaled(seconds, 9, nanoseconds)), bad

    def _byte(self, shift: int = 0) -> np.ndarray:
        """The byte at `at` + shift; 0 past the end."""
        place = self._at + shift
        return np.where(place < self._end, self._data[np.minimum(place, len(self._data) - 1)], 0)

    def _number(self, digits: int, shift: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """int64 of `digits` digits from `at` + shift, and whether all of them are digits."""
        value, right = np.zeros(len(self._at), np.int64), np.ones(len(self._at), bool)
        for i in range(shift, shift + digits):
            digit = self._byte(i).astype(np.int64) - 48
            right &= (digit >= 0) & (digit <= 9)
            value = value * 10 + digit
        return np.where(right, value, 0), right

    def _date(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        (year, a), (month, b), (day, c) = (self._number(*where) for where in ((4, 0), (2, 5), (2, 8)))
        right = a & b & c & (self._byte(4) == ord("-")) & (self._byte(7) == ord("-"))
        self._at = self._at + _DATE
        return year, month, day, right

    def _clock(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Seconds of the day, nanoseconds, and whether this is a time of day; moves `at` past it."""
        right = np.isin(self._byte(), np.frombuffer(b"Tt ", np.uint8)) & (self._byte(3) == ord(":"))
        (hour, a), (minute, b) = self._number(2, 1), self._number(2, 4)
        self._at = self._at + 6
        has_seconds = self._byte() == ord(":")
        second, c = self._number(2, 1)
        second = np.where(has_seconds, second, 0)
        self._at = self._at + 3 * has_seconds
        right &= a & b & (c | ~has_seconds) & (hour < 24) & (minute < 60) & (second < 60)
        fraction, whole = self._fraction(has_seconds)
        return hour * 3600 + minute * 60 + second, fraction, right & whole

    def _fraction(self, possible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        there = possible & np.isin(self._byte(), np.frombuffer(b".,", np.uint8))
        self._at = self._at + there
        reads, value, factor = there.copy(), np.zeros(len(there), np.int64), 10**8
        first = True
        whole = np.ones(len(there), bool)
        while reads.any():
            digit = self._byte().astype(np.int64) - 48
            reads &= (digit >= 0) & (digit <= 9)
            value += np.where(reads, digit * factor, 0)
            if first:
                whole, first = reads | ~there, False  # a point with no digit after it
            self._at = self._at + reads
            factor //= 10  # 0 from the tenth digit on
        return value, whole

    def _zone(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds east of UTC, and whether the rest of the text is a zone."""
        length = np.maximum(self._end - self._at, 0)
        known = length <= _LONGEST_ZONE
        length = np.where(known, length, 0)
        width = int(length.max())
        if not width:
            return np.zeros(len(length), np.int64), known
        place = np.arange(width)
        tail = np.where(
            place < length[:, None], self._data[np.minimum(self._at[:, None] + place, len(self._data) - 1)], 0
        )
        codes, names = _distinct(np.ascontiguousarray(tail, np.uint8))
        found = [_offset(name) for name in names]
        offset = np.array([0 if seconds is None else seconds for seconds in found], np.int64)
        valid = np.array([seconds is not None for seconds in found])
        # NUL bytes inside the text would look like its end.
        return offset[codes], known & valid[codes] & ((tail != 0).sum(axis=1) == length)


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, list[bytes]]:
    """int [n] codes and the distinct rows of uint8 [n, width], zeros at their ends cut off."""
    texts = pa.array(rows.view(f"S{rows.shape[1]}").ravel(), pa.binary()).dictionary_encode()
    return texts.indices.to_numpy(), texts.dictionary.to_pylist()


def _offset(zone: bytes) -> int | None:
    """Seconds east of UTC of a zone in the notation of ISO 8601, BigQuery, Java or pandas; None: not a
    zone."""
    found = _ZONE.fullmatch(zone)
    if not found or zone in (b" ",):
        return None
    if not found[1]:
        bare = zone.startswith(b"[")  # a name alone does not determine the offset
        return None if bare and zone.upper() not in (b"[UTC]", b"[GMT]", b"[Z]") else 0
    hours, minutes, seconds = (int(found[i] or 0) for i in (2, 3, 4))
    if hours > 18 or minutes > 59 or seconds > 59:
        return None
    return (1 if found[1] == b"+" else -1) * (hours * 3600 + minutes * 60 + seconds)


def _days(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Days since 1970 of a date of the Gregorian calendar, int64 (Hinnant, days_from_civil)."""
    year = year - (month <= 2)
    era = year // 400
    of_era = year - era * 400
    of_year = (153 * (month + np.where(month > 2, -3, 9)) + 2) // 5 + day - 1
    return era * 146_097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719_468


def _is_date(year: np.ndarray, month: np.ndarray, day: np.ndarray) -> np.ndarray:
    leap = (year % 4 == 0) & ((year % 100 != 0) | (year % 400 == 0))
    lengths = np.array([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    valid = (month >= 1) & (month <= 12)
    days = lengths[np.where(valid, month, 0)] + (leap & (month == 2))
    return valid & (day >= 1) & (day <= days) & (year >= 1)
