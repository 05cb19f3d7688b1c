"""The datasets below the one that is prepared, as the stages see them."""

import contextlib
import dataclasses
from collections.abc import Iterator

from configs.chain import load_chain
from configs.dataset_lock import DatasetLock
from configs.dataset_parts import FileInfo
from configs.errors import DataError
from configs.manifest import Dataset, load_dataset
from configs.system.storage import is_remote
from pipelines.base.index import read_splitters

REBUILD = "run `lazytower prepare --overwrite` with its config"


@dataclasses.dataclass(frozen=True)
class Layer:
    """A table in one dataset of a chain."""

    rows: int
    """Rows of the table."""
    oov: int
    """Its out-of-vocabulary row."""
    paths: tuple[str, ...]
    """Its index files, by range of keys."""


@dataclasses.dataclass(frozen=True)
class BaseTable:
    """A table in the base; by default of no rows, as of a table that the base does not have."""

    rows: int = 1
    """Rows of the table."""
    oov: int | None = 0
    """Its out-of-vocabulary row; None: ids are hashed."""
    catalog_rows: int = 1
    """Bound of its catalog ids."""
    layers: tuple[Layer, ...] = ()
    """The table in each dataset of the chain, newest first; empty unless ids are exact."""
    splitters: tuple[str, ...] = ()
    """First key of each range but the first."""


NO_TABLE = BaseTable()


@dataclasses.dataclass(frozen=True)
class Base:
    """The datasets below the one that is prepared."""

    datasets: tuple[Dataset, ...]
    """Newest first."""
    tables: dict[str, BaseTable]
    """Tables whose ids are of keys."""

    @property
    def top(self) -> Dataset:
        """The base itself."""
        return self.datasets[0]

    @property
    def newest_train(self) -> int | None:
        """Time of the newest train row of the chain."""
        times = [dataset.splits["train"].max_timestamp for dataset in self.datasets]
        return max((time for time in times if time is not None), default=None)


@contextlib.contextmanager
def reading(base: Base | None) -> Iterator[None]:
    """Locks all datasets of a chain against being replaced. Raises DataError: another process replaces
    one."""
    with contextlib.ExitStack() as locks:
        for dataset in base.datasets if base else ():
            locks.enter_context(DatasetLock(dataset.path))
        yield


def open_base(path: str) -> Base:
    """The base at `path` and all datasets below it.

    Raises:
      DataError: one of them is missing, or has been rebuilt since the next was prepared on it, or has no
      index.
    """
    datasets = load_chain(_load(path))
    tables = {
        name: _table(datasets, name) for name, info in datasets[0].tables.items() if info.ids != "buckets"
    }
    return Base(tuple(datasets), tables)


def _load(path: str) -> Dataset:
    try:
        return load_dataset(path)
    except DataError as error:
        raise DataError(f"dataset.base: {error}") from None


def _table(datasets: list[Dataset], name: str) -> BaseTable:
    info = datasets[0].tables[name]
    catalog_rows = info.catalog_rows or info.rows
    if info.ids != "vocab":
        return BaseTable(info.rows, info.oov, catalog_rows)
    layers = []
    for dataset in datasets:
        table = dataset.tables[name]
        assert table.oov is not None
        if not table.index:
            raise DataError(
                f"{dataset.path}: has no index of its keys, because an earlier version prepared it; "
                f"{REBUILD} once, then a dataset can stand on it"
            )
        layers.append(Layer(table.rows, table.oov, tuple(_path(dataset, file) for file in table.index)))
        if table.base_rows is None:
            break
    return BaseTable(
        info.rows, info.oov, catalog_rows, tuple(layers), tuple(read_splitters(layers[0].paths[0]))
    )


def _path(dataset: Dataset, file: FileInfo) -> str:
    path = dataset.file_path(file)
    return path if is_remote(path) else path.removeprefix("file://")
