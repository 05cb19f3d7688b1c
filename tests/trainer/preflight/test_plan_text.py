"""Numbers of bytes for people."""

import pytest

from trainer.text import size_text


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
