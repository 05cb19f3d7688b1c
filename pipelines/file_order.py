"""dataset.history_of, where nothing says whether the source has each user's rows in the order of time.

A source of a given split without a timestamp may be a log that has lost its times, or a table that was sorted
by item. Histories in the order of a sorted table would hold what has the smaller key, not what came before.
"""

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from absl import logging

from configs.errors import DataError
from pipelines.job import Job
from pipelines.rows.validate import validate
from pipelines.sources.reader import Range, Reader
from pipelines.stages.spool import array

SAMPLE_ROWS = 200_000
_KEYS = pa.schema({"user": pa.string(), "item": pa.string()})
_NO_KEYS = _KEYS.empty_table()
_MIN_PAIRS = 100
_SORTED = 0.99
"""Share of pairs in one direction. CiteULike, grouped by item, has 1.00; ML-1M, in the order of time, 0.51;
Amazon Games, also in that order, 0.70; amazon-beauty, without any order, 0.50."""


def with_history_of(job: Job, reader: Reader, ranges: list[Range]) -> Job:
    """The job with dataset.history_of filled in, if there are histories: `others` if the first rows are
    sorted by item within each user, else `earlier`. The choice is logged.

    Args:
      reader: of the interactions, which have users and items.
    """
    if not job.dataset.history_length or job.dataset.history_of is not None:
        return job
    if is_sorted_by_item(*_sample(job, reader, ranges)):
        chosen = "others"
        reason = "each user's rows are sorted by item; if that is the order of time, set it to earlier"
    else:
        chosen = "earlier"
        reason = "a user's rows count as ordered by time; if their order means nothing, set it to others"
    logging.info("dataset.history_of: %s, because the source has no timestamp and %s", chosen, reason)
    dataset = job.dataset.model_copy(update={"history_of": chosen})
    return dataclasses.replace(job, dataset=dataset)


def is_sorted_by_item(users: pa.StringArray, items: pa.StringArray) -> bool:
    """Whether each user's rows follow the order of items: of their keys as numbers or as text, or of their
    first rows in the source, as in a file that is grouped by item.

    Only pairs of a user's neighboring rows count of which neither is its item's first row: keys numbered by
    first appearance ascend with those in any file. Fewer than 100 such pairs prove nothing.

    Args:
      users, items: strings [n], in the order of the source.
    """
    user = users.dictionary_encode().indices.to_numpy()
    encoded = items.dictionary_encode()
    first = encoded.indices.to_numpy()  # numbered by first appearance
    is_first = np.zeros(len(first), bool)
    is_first[np.unique(first, return_index=True)[1]] = True
    order = np.argsort(user, kind="stable")
    before, after = order[:-1], order[1:]
    pair = (user[before] == user[after]) & (first[before] != first[after])
    pair &= ~is_first[before] & ~is_first[after]
    if np.count_nonzero(pair) < _MIN_PAIRS:
        return False
    earlier, later = first[before[pair]], first[after[pair]]
    for rank in (np.arange(len(encoded.dictionary)), *_ranks(encoded.dictionary)):
        ascending = np.mean(rank[earlier] < rank[later])
        if max(ascending, 1 - ascending) >= _SORTED:
            return True
    return False


def _ranks(keys: pa.StringArray) -> Iterator[np.ndarray]:
    """Ranks of distinct keys: as text, and as numbers if they are."""
    texts = np.array(keys.to_pylist(), object)
    for values in (texts, _numbers(texts)):
        if values is not None:
            yield np.unique(values, return_inverse=True)[1]


def _numbers(texts: np.ndarray) -> np.ndarray | None:
    try:
        return texts.astype(np.float64)
    except ValueError:
        return None


def _sample(job: Job, reader: Reader, ranges: list[Range]) -> tuple[pa.StringArray, pa.StringArray]:
    """Keys of users and items of the first valid rows."""
    found, rows = [_NO_KEYS], 0
    reader.setup()
    with contextlib.suppress(DataError, OSError):  # the pipeline reads the same rows and says what is wrong
        for table in _tables(job, reader, ranges):
            found.append(table.select(["user", "item"]).cast(_KEYS))
            if (rows := rows + table.num_rows) >= SAMPLE_ROWS:
                break
    sample = pa.concat_tables(found).slice(0, SAMPLE_ROWS)
    return array(sample["user"]), array(sample["item"])


def _tables(job: Job, reader: Reader, ranges: list[Range]) -> Iterator[pa.Table]:
    for part in ranges:
        for piece in reader.read(part, 0, 1):
            yield validate(piece, job)[0]
