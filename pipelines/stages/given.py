"""Vocabulary files (ids: given): read once by the driver, then looked up in by every worker."""

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.errors import DataError
from configs.sections.dataset import DatasetConfig, GivenIdsConfig
from configs.system.storage import read_bytes, write_bytes
from pipelines.job import Job
from pipelines.rows.keys import break_lines, clean_keys
from pipelines.sources.identity import SourceFile, look
from pipelines.stages.ids import WITH_CATALOG, hash_ids, send_keys
from pipelines.stages.members import Facts
from pipelines.stages.plan import Plan
from pipelines.stages.spool import SpoolWriter
from pipelines.stages.threads import ThreadedDoFn


def given_tables(dataset: DatasetConfig) -> dict[str, GivenIdsConfig]:
    """The ids sections of tables with a vocabulary file."""
    every = dataset.feature_ids | {"user": dataset.user_ids, "item": dataset.item_ids}
    return {name: ids for name, ids in every.items() if isinstance(ids, GivenIdsConfig)}


def given_files(dataset: DatasetConfig) -> list[SourceFile]:
    """The vocabulary files, each once. Raises DataError: one is missing or cannot be read."""
    keys: dict[str, str] = {}
    for table, ids in given_tables(dataset).items():
        keys.setdefault(ids.path, f"{table}_ids" if table in WITH_CATALOG else "feature_ids")
    return [look(path, f"dataset.{key}") for path, key in keys.items()]


def read_vocabulary(path: str, clean: bool) -> pa.StringArray:
    """The keys of a vocabulary file, one a line.

    Args:
      clean: whether keys of the source are cleaned, so that a key that cleaning changes would never be found.

    Raises:
      DataError: not UTF-8, no lines, or an empty, duplicate or uncleaned line.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8; convert the file to UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not text:
        raise DataError(f"{path}: no keys; write one key a line")
    # Arrow, since millions of Python strings would take gigabytes.
    lines = compute.split_pattern(pa.array([text.removesuffix("\n")], pa.large_string()), "\n").flatten()
    keys = compute.replace_substring_regex(lines, "\r$", "").cast(pa.string())
    _check_lines(path, keys)
    if clean:
        cleaned = clean_keys(keys).keys
        odd = np.flatnonzero(compute.not_equal(cleaned, keys).to_numpy(zero_copy_only=False).astype(bool))
        if len(odd):
            first = int(odd[0])
            what = f"{keys[first].as_py()!r} is {cleaned[first].as_py()!r} after cleaning"
            raise DataError(
                f"{path}:{first + 1}: {what}, so no key would match; write it so, or set "
                "source.clean_keys: false"
            )
    return keys


def _check_lines(path: str, keys: pa.StringArray) -> None:
    empty = compute.equal(keys, "").to_numpy(zero_copy_only=False).astype(bool)
    if empty.any():
        raise DataError(f"{path}:{int(np.argmax(empty)) + 1}: empty line; remove it")
    if (broken := break_lines(keys)) is not None:
        raise DataError(f"{path}:{int(np.argmax(broken)) + 1}: contains a carriage return or NUL; remove it")
    codes = keys.dictionary_encode().indices.to_numpy()
    again = np.flatnonzero(codes < np.maximum.accumulate(np.r_[-1, codes[:-1]]) + 1)
    if len(again):  # codes count distinct keys in the order of their first line
        line, first = int(again[0]), int(np.argmax(codes == codes[again[0]]))
        what = f"duplicate key {keys[line].as_py()[:100]!r}, first in line {first + 1}"
        raise DataError(f"{path}:{line + 1}: {what}; remove one")


def store_vocabularies(job: Job) -> dict[str, int]:
    """Checks all vocabulary files and stores them in the spool; returns the number of keys by table."""
    found = {}
    for table, ids in given_tables(job.dataset).items():
        keys = read_vocabulary(ids.path, getattr(job.source, "clean_keys", False))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, pa.schema([("key", pa.string())])) as file:
            file.write_table(pa.table({"key": keys}))
        write_bytes(_stored(job, table), sink.getvalue().to_pybytes())
        found[table] = len(keys)
    return found


def _stored(job: Job, table: str) -> str:
    return f"{job.layout.spool}/vocabulary-{table}"


class Vocabularies:
    """The vocabularies of a job, as its workers look keys up in them."""

    def __init__(self, job: Job):
        self._job = job

    @functools.cache  # noqa: B019 - one instance lives as long as its worker
    def keys(self, table: str) -> pa.StringArray:
        """All keys of a table in the order of their ids."""
        data = read_bytes(_stored(self._job, table))
        return pa.ipc.open_file(pa.py_buffer(data)).read_all()["key"].combine_chunks()

    def ids(self, table: str, keys: pa.StringArray) -> np.ndarray:
        """int64 [n] ids of keys: lines, and for others the out-of-vocabulary rows after them, by hash."""
        config: Any = self._job.ids_of(table)
        vocabulary = self.keys(table)
        found = (
            compute.index_in(keys, vocabulary).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        )
        others = np.flatnonzero(found < 0)
        found[others] = len(vocabulary) + hash_ids(keys.take(pa.array(others)), config.oov_rows)
        return found


class SendVocabularies(ThreadedDoFn):
    """Table to ((table, part), (-1, ref)) of all keys of its vocabulary file, with counts of 0: they join the
    keys that user shards send, so that keys without rows are in the dataset too."""

    def work(self, table: str, plan: Plan) -> Iterator[Any]:
        if plan.failed:
            return
        keys = Vocabularies(self._job).keys(table)
        ids = np.arange(len(keys))
        output = []
        with SpoolWriter(self._job.layout.spool, "given") as spool:
            for part, slice_ in send_keys(self._job, plan, table, keys, Facts.none(len(keys)), ids):
                output.append(((table, part), (-1, spool.add(slice_))))
        yield from output
