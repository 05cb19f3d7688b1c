"""Keys of the users of an output, spooled as one Parquet file a shard, so that any worker finds its own."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import DataError
from configs.manifest import Dataset
from configs.system import storage
from trainer.batch.target import checksum

KEY_COLUMN = "key"
_PIECE = 4 << 20
_AT_ONCE = 1 << 16


class ScoredUsers(NamedTuple):
    """The users of an output: all of a dataset, or those of a file."""

    dataset: Dataset | None
    file: str | None = None

    def identity(self) -> dict[str, Any]:
        """What the manifest says of them."""
        if self.file is not None:
            return file_identity(self.file)
        return {"dataset_fingerprint": self._dataset.fingerprint}

    def keys(self) -> Iterator[pa.Array]:
        """Their keys as pieces."""
        return file_keys(self.file) if self.file is not None else catalog_keys(self._dataset)

    @property
    def _dataset(self) -> Dataset:
        assert self.dataset is not None
        return self.dataset


def catalog_keys(dataset: Dataset) -> Iterator[pa.Array]:
    """Keys of all users of a dataset, in the order of its catalog, as pieces (binary)."""
    from trainer.data.chain.catalogs import catalog_blocks

    for block in catalog_blocks(dataset, "user", [KEY_COLUMN]):
        yield pa.array(block.columns[KEY_COLUMN], pa.binary())


def file_identity(path: str) -> dict[str, Any]:
    """What the manifest says of a file of keys; DataError when there is none."""
    try:
        found = checksum(path)
    except OSError as error:
        raise DataError(f"--users {path}: cannot be read ({error})") from None
    if found is None:
        raise DataError(f"--users {path}: no such file")
    return {"file": path, "bytes": found[0], "crc32c": found[1]}


def file_keys(path: str) -> Iterator[pa.Array]:
    """Keys of a file as pieces (binary): the column `user`, or the only one, of a Parquet file, or lines.

    Raises:
      DataError: it is not such a file, or a line is not UTF-8.
    """
    with storage.reading(path) as file:
        head = file.read(4)
        file.seek(0)
        yield from (_column if head == b"PAR1" else _lines)(file, path)


def _column(file, path: str) -> Iterator[pa.Array]:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise DataError(f"--users {path}: cannot be read ({str(error).splitlines()[0]})") from None
    names = parquet.schema_arrow.names
    if "user" not in names and len(names) != 1:
        raise DataError(f"--users {path}: has no column user; its columns are {', '.join(names)}")
    name = "user" if "user" in names else names[0]
    for batch in parquet.iter_batches(_AT_ONCE, columns=[name]):
        column = batch.column(0)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_integer(column.type):
            column = column.cast(pa.string())
        try:
            yield column.drop_null().cast(pa.binary())
        except pa.ArrowException:
            raise DataError(
                f"--users {path}: column {name} is {column.type}; keys are text or whole numbers"
            ) from None


def _lines(file, path: str) -> Iterator[pa.Array]:
    rest, number = b"", 1
    while True:
        piece = file.read(_PIECE)
        if number == 1:
            piece = piece.removeprefix(codecs.BOM_UTF8)
        lines = (rest + piece).split(b"\n")
        rest = lines.pop() if piece else b""
        for line in lines if not _is_utf8(lines) else ():
            if not _is_utf8([line]):
                raise DataError(f"--users {path}:{number}: is not UTF-8; save the file as UTF-8")
            number += 1
        number += len(lines)
        yield pa.array([key for key in (line.removesuffix(b"\r") for line in lines) if key], pa.binary())
        if not piece:
            return


def _is_utf8(lines: list[bytes]) -> bool:
    try:
        b"\n".join(lines).decode()
    except UnicodeDecodeError:
        return False
    return True


def spool_keys(pieces: Iterable[pa.Array], directory: str, shard_rows: int) -> list[tuple[str, int]]:
    """Writes the keys into keys-<number>.parquet files of `shard_rows` keys, of which only one piece and one
    shard are in memory.

    Returns:
      (name, rows) of each file.
    """
    files: list[tuple[str, int]] = []
    held: list[pa.Array] = []
    number = 0
    for piece in pieces:
        while number + len(piece) >= shard_rows:
            held.append(piece[: shard_rows - number])
            files.append(_write(held, directory, len(files)))
            piece, held, number = piece[shard_rows - number :], [], 0
        if len(piece):
            held.append(piece)
            number += len(piece)
    if number:
        files.append(_write(held, directory, len(files)))
    return files


def _write(pieces: list[pa.Array], directory: str, number: int) -> tuple[str, int]:
    name, table = f"keys-{number:05d}.parquet", pa.table({KEY_COLUMN: pa.chunked_array(pieces, pa.binary())})
    with storage.writing(storage.join(directory, name)) as file:
        pq.write_table(table, file, compression="snappy", use_dictionary=False)
    return name, len(table)


def read_keys(path: str) -> np.ndarray:
    """Keys of a spooled file, object (bytes) [n]."""
    with storage.reading(path) as file:
        keys: np.ndarray = pq.read_table(file).column(KEY_COLUMN).to_numpy()
    return keys
