"""Text for people: sizes, and tables with aligned columns."""


def size_text(number: float | None) -> str:
    """A number of bytes as text; "?": not known."""
    if number is None:
        return "?"
    return f"{number / 1e9:,.2f} GB" if number >= 1e8 else f"{number / 1e6:,.2f} MB"


def aligned(rows: list[list[str]], last_is_text: bool = False) -> str:
    """Columns under each other: the first, and if asked the last, to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [text.rjust(width) for text, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        if last_is_text:
            cells[-1] = row[-1]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
