"""Text for people: sizes, and tables with aligned columns."""

from collections.abc import Iterable, Sequence


def size_text(number: float | None) -> str:
    """A number of bytes as text; "?": not known."""
    if number is None:
        return "?"
    return f"{number / 1e9:,.2f} GB" if number >= 1e8 else f"{number / 1e6:,.2f} MB"


def aligned(rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> str:
    """A table as text: columns of equal width, two spaces apart, no spaces at the end of a line.

    Args:
      rows: cells, the heading's row first; at least one row, all of the same length.
      left: columns whose cells are aligned to the left; negative numbers count from the last column. Cells
        of the other columns, usually numbers, are aligned to the right.

    Returns:
      One line per row, without a newline at the end.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    to_the_left = {index % len(widths) for index in left}
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if index in to_the_left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
