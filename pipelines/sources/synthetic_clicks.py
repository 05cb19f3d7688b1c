"""The planted click log of configs/planted/clicks.py."""

from collections.abc import Generator

import numpy as np
import pyarrow as pa

from configs.columns import label_column
from configs.planted.clicks import ClickRows, PlantedClicks
from configs.sections.roles import PLANTED_LABEL
from configs.sections.source_kinds.synthetic import SyntheticClicksSourceConfig
from pipelines.sources.reader import Range, SourcePiece
from pipelines.sources.synthetic import DrawnReader, indexed_keys


class Reader(DrawnReader):
    """Draws rows with clicks."""

    config: SyntheticClicksSourceConfig

    def setup(self) -> None:
        self._planted = PlantedClicks(self.config)

    def read(self, part: Range, first_row: int, first_line: int) -> Generator[SourcePiece, None, int]:
        found = self._planted.rows(part.start, part.stop)
        rows = np.arange(part.start, part.stop)
        yield SourcePiece(
            columns=self._columns(found),
            rows=rows,
            lines=rows + 1,
            path=self.config.kind,
            raw=lambda i: f"{found.timestamps[i]}",
        )
        return len(rows)

    def _columns(self, found: ClickRows) -> dict[str, pa.Array]:
        owners = [name for name in ("user", "item") if getattr(self.config.roles, name) is not None]
        names = [*owners, *(f"c{i + 1}" for i in range(len(self.config.categorical)))]
        columns: dict[str, pa.Array] = {}
        for name, keys, size in zip(names, found.keys, self._planted.sizes, strict=True):
            columns[name] = indexed_keys(keys, name[0] if name in owners else "k", size)
        for number, values in enumerate(found.numbers):
            columns[f"n{number + 1}"] = pa.array(values)
        if self.config.list_keys:
            offsets = pa.array(np.r_[0, np.cumsum(found.lengths)])
            members = indexed_keys(found.members, "t", self.config.list_keys).dictionary_decode()
            columns["tags"] = pa.LargeListArray.from_arrays(offsets, members)
        columns["label"] = pa.array(found.clicked.astype(np.float32))
        columns[label_column(PLANTED_LABEL)] = pa.array(found.probability.astype(np.float32))
        columns["timestamp"] = pa.array(found.timestamps)
        return columns
