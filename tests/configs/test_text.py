"""Text for people."""

import pytest

from configs.text import aligned, size_text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "?"),
        (0, "0.00 MB"),
        (40_512, "0.04 MB"),
        (99_000_000, "99.00 MB"),
        (12_900_000_000, "12.90 GB"),
    ],
)
def test_small_sizes_are_not_nothing(number, text):
    assert size_text(number) == text


ROWS = [["table", "rows", "note"], ["user", "1,000", "new"], ["a", "20", "x, y"]]


def test_numbers_are_aligned_to_the_right():
    assert aligned(ROWS) == "table   rows  note\nuser   1,000   new\na         20  x, y"


def test_columns_that_are_named_are_aligned_to_the_left():
    assert aligned(ROWS, left=(0, -1)) == "table   rows  note\nuser   1,000  new\na         20  x, y"
    assert aligned(ROWS, left=range(3)) == "table  rows   note\nuser   1,000  new\na      20     x, y"
    assert aligned(ROWS, left=()) == "table   rows  note\n user  1,000   new\n    a     20  x, y"


def test_rows_of_unequal_length_are_no_table():
    with pytest.raises(ValueError):
        aligned([["a", "b"], ["c"]])
