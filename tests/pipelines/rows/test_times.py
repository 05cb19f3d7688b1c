"""Times of all notations, against Python's own datetime and decimal arithmetic."""

import datetime
import decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.rows.times import AFTER, BEFORE, LAST_SECOND, to_nanoseconds

BILLION = 10**9
DAY = 86_400 * BILLION
JULY = 1_406_138_400 * BILLION  # 2014-07-23T18:00:00Z


def times(values, unit) -> list[int | None]:
    found, bad = to_nanoseconds(values if isinstance(values, pa.Array) else pa.array(values), unit)
    assert found.dtype == np.int64 and not found[bad].any()
    return [None if b else t for t, b in zip(found.tolist(), bad.tolist(), strict=True)]


@pytest.mark.parametrize("unit, values, expected", [
    ("s", ["17", " 18.9", "x", "", None, "+5"],
     [17 * BILLION, 18_900_000_000, None, None, None, 5 * BILLION]),
    ("s", ["1.7e9", "1e300", "-1e300", "1e-3", "inf", "nan"],
     [17 * 10**17, AFTER, BEFORE, 10**6, AFTER, None]),
    ("s", ["0x10", "1_000", "١", "1 0", "17-3", "1.2.3", ".", "."], [None] * 8),
    ("s", ["1700000000.123456789", "1700000000.1234567899", "5.", ".5", "-0.5"],
     [1_700_000_000_123_456_789, 1_700_000_000_123_456_789, 5 * BILLION, 500_000_000, BEFORE]),
    ("s", ["99999999999999999999999", "-1", "9214646399", "9214646400"],
     [AFTER, BEFORE, (LAST_SECOND - 1) * BILLION, AFTER]),
    ("ms", [1999, 2000, -1, None], [1_999_000_000, 2 * BILLION, BEFORE, None]),
    ("ms", ["1999.25"], [1_999_250_000]),
    ("us", pa.array([1_999_999.0, 0.5, float("nan"), float("inf")]), [1_999_999_000, 500, None, AFTER]),
    ("ns", ["1700000000123456789", "7.9"], [1_700_000_000_123_456_789, 7]),
    ("ns", pa.array([2**64 - 1, 5, None], pa.uint64()), [AFTER, 5, None]),
    ("s", pa.array([1_700_000_000.123, 1.7e9]), [1_700_000_000_123_000_000, 17 * 10**17]),
    ("s", pa.array([b"17", b"\xff", b"18.5"]), [17 * BILLION, None, 18_500_000_000]),
    ("s", pa.array(["17", "x", "17", None]).dictionary_encode(), [17 * BILLION, None, 17 * BILLION, None]),
    ("s", pa.array([datetime.datetime(1970, 1, 1, 0, 0, 5, 7), None], pa.timestamp("us")),
     [5_000_007_000, None]),
    ("s", pa.array([JULY + 1], pa.timestamp("ns", "Europe/Paris")), [JULY + 1]),
    ("s", pa.array([10**12, -5], pa.timestamp("s")), [AFTER, BEFORE]),
    ("s", pa.array([datetime.date(1970, 1, 2), None]), [DAY, None]),
    ("s", pa.array([datetime.date(1970, 1, 2)], pa.date64()), [DAY]),
])  # fmt: skip
def test_numbers_and_arrow_types(unit, values, expected):
    assert times(values, unit) == expected


@pytest.mark.parametrize("text, expected", [
    ("2014-07-23", JULY - 18 * 3600 * BILLION),
    ("2014-07-23T18:00", JULY),
    (" 2014-07-23 18:00:00\t", JULY),
    ("2014-07-23 18:00:00 UTC", JULY),  # BigQuery
    ("2014-07-23 18:00:00.123456 UTC", JULY + 123_456_000),
    ("2014-07-23 18:00:00.5+00", JULY + 500_000_000),
    ("2014-07-23T18:00:00.123Z[UTC]", JULY + 123_000_000),  # Java
    ("2014-07-23T18:00Z", JULY),
    ("2014-07-23T20:00:00+0200", JULY),
    ("2014-07-23T20:00:00.000000001+02:00[Europe/Paris]", JULY + 1),
    ("2014-07-23T19:22:30+01:22:30", JULY),
    ("2014-07-23 18:00:00+00:00", JULY),  # pandas
    ("2014-07-23 18:00:00.123456789", JULY + 123_456_789),
    ("2014-07-23 18:00:00.1234567891234", JULY + 123_456_789),
    ("2014-07-23 18:00:00,250", JULY + 250_000_000),  # Python's logging
    ("2014-07-23t13:00:00-05z", None),
    ("2014-07-23t13:00:00-05", JULY),
    ("2014-07-23T18:00:00 gmt", JULY),
    ("1969-12-31T23:59:59.999", BEFORE),
    ("1970-01-01T00:30:00+01:00", BEFORE),
    ("0001-01-01", BEFORE), ("9999-12-31 23:59:59", AFTER),
    ("2262-01-01T00:00:00Z", AFTER), ("2261-12-31T23:59:59.999999999", AFTER - 1),
    ("2012-02-29", 15_399 * DAY), ("2000-02-29", 11_016 * DAY),
    *((text, None) for text in (
        "", "-", "no", "2013-02-29", "2100-02-29", "2014-13-01", "2014-00-01", "2014-01-00", "2014-04-31",
        "2014-7-23", "20140723", "2014/07/23", "2014-07-23T", "2014-07-23T18", "2014-07-23T24:00",
        "2014-07-23T18:60", "2014-07-23T18:00:60", "2014-07-23T18:00:0", "2014-07-23T18:00:00.",
        "2014-07-23T18:00.5", "2014-07-23  18:00", "2014-07-23T18:00:00[Europe/Paris]",
        "2014-07-23T18:00:00 CET", "2014-07-23T18:00:00+2", "2014-07-23T18:00:00+19",
        "2014-07-23T18:00:00+02:60", "2014-07-23T18:00:00\0", "2014-07-23\0", "2014-07-23T18:00:00Zx",
        "2014-07-23T18:00:00Z" + "x" * 60, "1406138400", "٢٠١٤-07-23",
    )),
])  # fmt: skip
def test_iso8601(text, expected):
    """A time means the same beside others of any length."""
    others = ["2014-07-23", "x", None, "2014-07-23T18:00:00.123456789+02:00[Europe/Paris]", ""]
    assert times([text], "iso8601") == [expected]
    assert times([*others, text, *others], "iso8601")[5] == expected
    assert times(pa.array([*others, text]).dictionary_encode(), "iso8601")[5] == expected
    assert times(pa.array(["zzz", text, *others]).slice(1), "iso8601")[0] == expected


ZONES = st.sampled_from(
    ["", "Z", "+00:00", "+02:00", "-0930", "+05", " UTC", "Z[UTC]", "-03:00[America/Bahia]"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(
    st.datetimes(datetime.datetime(1970, 1, 3), datetime.datetime(2261, 12, 30)), st.integers(0, 9),
    st.sampled_from("T "), ZONES), max_size=20))  # fmt: skip
def test_iso8601_equals_datetime(drawn):
    texts, expected = [], []
    for moment, digits, between, zone in drawn:
        nanoseconds = moment.microsecond * 1000 + moment.second
        fraction = f".{nanoseconds:09d}"[: digits + 1] if digits else ""
        texts.append(f"{moment:%Y-%m-%d}{between}{moment:%H:%M:%S}{fraction}{zone}")
        sign = -1 if "-" in zone[:1] else 1
        hours = {"+02:00": 2, "-0930": 9.5, "+05": 5, "-03:00[America/Bahia]": 3}.get(zone, 0)
        whole = moment.replace(microsecond=0, tzinfo=datetime.timezone.utc)
        seconds = int(whole.timestamp()) - int(sign * hours * 3600)
        expected.append(seconds * BILLION + int((fraction[1:] or "0").ljust(9, "0")))
    assert times(pa.array(texts, pa.string()), "iso8601") == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 4e9), max_size=20), st.sampled_from(["s", "ms", "us", "ns"]))
def test_floats_mean_what_their_text_means(numbers, unit):
    found = times(pa.array(numbers, pa.float64()), unit)
    assert found == times(pa.array([repr(n) for n in numbers], pa.string()), unit)
    digits = {"s": 9, "ms": 6, "us": 3, "ns": 0}[unit]
    assert found == [int(decimal.Decimal(repr(n)).scaleb(digits)) for n in numbers]


def test_bad_values_are_looked_at_with_the_others(monkeypatch):
    """Python sees distinct zones and odd numbers, never the rows of a block that holds a bad one."""
    import pipelines.rows.times as module

    calls = []
    for name in ("_offset", "_one_number"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real: calls.append(a) or real(*a))
    good = [f"2024-01-{1 + i % 28:02d} {i % 24:02d}:{i % 60:02d}:00" for i in range(2000)]
    assert times(["-", *good], "iso8601")[0] is None
    assert times(["-", *map(str, range(2000)), "1.5"], "s")[-1] == 1_500_000_000
    assert len(calls) <= 3
