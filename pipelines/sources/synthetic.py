"""The planted model of configs/planted/interactions.py."""

from collections.abc import Generator

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.planted.interactions import Planted
from configs.sections.source_kinds.synthetic import SyntheticClicksSourceConfig, SyntheticSourceConfig
from pipelines.sources import reader
from pipelines.sources.identity import SourceFile
from pipelines.sources.reader import Range, SourcePiece


class DrawnReader(reader.Reader):
    """Of sources without files: any range of rows can be drawn."""

    config: SyntheticSourceConfig | SyntheticClicksSourceConfig

    def files(self) -> list[SourceFile]:
        return []

    def estimated_rows(self) -> int:
        return self.config.rows

    def ranges(self) -> list[Range]:
        step = self.layout.chunk_rows
        starts = range(0, self.config.rows, step)
        return [Range(i, "", start, min(start + step, self.config.rows)) for i, start in enumerate(starts)]

    def count(self, part: Range) -> int:
        return part.stop - part.start


class Reader(DrawnReader):
    """Draws interactions."""

    config: SyntheticSourceConfig

    def setup(self) -> None:
        self._planted = Planted(self.config)
        self._planted.rows(0, 1)  # fills its tables before threads share them

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        users, items, timestamps = self._planted.rows(part.start, part.stop)
        rows = np.arange(part.start, part.stop)
        yield SourcePiece(
            columns={
                "user": indexed_keys(users, "u", self.config.users),
                "item": indexed_keys(items, "i", self.config.items),
                "timestamp": pa.array(timestamps),
            },
            rows=rows,
            lines=rows + 1,
            path="synthetic",
            raw=lambda i: f"u{users[i]},i{items[i]},{timestamps[i]}",
        )
        return len(rows)


def indexed_keys(index: np.ndarray, prefix: str, size: int) -> pa.DictionaryArray:
    """Keys made of a prefix and an index below `size`, as those of configs.planted.interactions."""
    if size <= 16 * len(index):  # marking all is faster than sorting
        used = np.zeros(size, bool)
        used[index] = True
        distinct = np.flatnonzero(used)
        where = (np.cumsum(used, dtype=np.int32) - np.int32(1))[index]
    else:
        distinct, where = np.unique(index, return_inverse=True)
        where = where.astype(np.int32)
    keys = compute.binary_join_element_wise(prefix, pa.array(distinct).cast(pa.string()), "")
    return pa.DictionaryArray.from_arrays(pa.array(where), keys)
