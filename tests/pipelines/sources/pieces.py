"""Reads a whole source as the pipeline does, range by range."""

from collections.abc import Iterator

from pipelines.sources.reader import SourcePiece, first_rows


def read_pieces(reader) -> Iterator[SourcePiece]:
    """All pieces of a source; each range has as many lines as were counted."""
    ranges = reader.ranges()
    places = first_rows(ranges, {part.index: reader.count(part) for part in ranges})
    for part in ranges:
        place = places[part.index]
        assert (yield from reader.read(part, place.row, place.line)) == place.count
