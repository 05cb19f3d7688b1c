"""Forecasts `lazytower score --what topk` for all users of a dataset, from two outputs for a few of them."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from configs.errors import ConfigError, DataError
from configs.manifest import load_dataset
from configs.schema import RunConfig
from trainer.batch.job import Scoring, score
from trainer.batch.request import BatchOptions, check_version, default_shard_rows
from trainer.batch.user_keys import ScoredUsers, catalog_keys, spool_keys
from trainer.resources import machine
from trainer.serving.client import find_version, read_metadata

_FEW = 1024
_ENOUGH_SECONDS = 4.0
_MOST = 1 << 17
_GROWTH = 8
_KEY_BYTES = 64  # of a user's key, of which a shard's are in memory


class _Output(NamedTuple):
    """An output for `users` users."""

    users: int
    seconds: float
    bytes: int


def make_score_plan(config: RunConfig, k: int, format_name: str) -> dict[str, Any]:
    """All figures, in bytes and seconds.

    The first output loads the model and traces its functions. Later ones are for more and more users, until
    one takes some seconds: its difference to another small one is what users cost.

    Args:
      config: the run; its newest exported version answers.
      k: items per user.
      format_name: key of trainer.batch.formats.FORMATS.

    Raises:
      ConfigError: k is more than the model's export.max_k, or the model is of another family.
      DataError: the dataset cannot be read.
      ExportError: there is no exported version, or it is of an earlier version.
    """
    free, limit = machine.free_memory()  # before TensorFlow takes its share
    path = find_version(config.export_path)
    metadata = read_metadata(path, "retrieval")
    check_version(path)
    if not 1 <= k <= metadata["max_k"]:
        raise ConfigError(f"--k {k}: must be 1 to {metadata['max_k']}, the export.max_k of the model")
    dataset = load_dataset(config.dataset.path)
    rows, options = default_shard_rows(k), {"k": k, "exclude_seen": metadata["exclude_seen"]}
    batch = BatchOptions(what="topk", format=format_name, shard_rows=rows, **options)
    with tempfile.TemporaryDirectory(prefix="lazytower-plan-") as folder:
        outputs = _outputs(dataset, path, metadata, batch, folder)
        users, seconds_of_keys = _count(dataset)
    cold, small, large = outputs[0], outputs[1], outputs[-1]
    each = max(large.seconds - small.seconds, 0.0) / max(large.users - small.users, 1)
    grown = max(large.bytes - small.bytes, 0) / max(large.users - small.users, 1)
    if large.users == small.users:  # there are few users: all of them were asked
        each, grown = large.seconds / large.users, large.bytes / large.users
    more = max(users - cold.users, 0)
    return {
        "name": config.name,
        "model": path,
        "users": users,
        "items": metadata["recommended_items"],
        "k": k,
        "format": format_name,
        "files": -(-users // rows),
        "bytes": round(cold.bytes + more * grown),
        "bytes_per_user": grown,
        "start_seconds": cold.seconds,
        "users_per_second": 1 / each if each else None,
        "seconds": cold.seconds + seconds_of_keys + more * each,
        "memory": {
            "peak_bytes": machine.peak_resident() + rows * _KEY_BYTES,
            "free_bytes": free,
            "limit": limit,
        },
    }


def _outputs(dataset, path: str, metadata: dict, options: BatchOptions, folder: str) -> list[_Output]:
    """A first small output, a second one, and larger ones, the last of which takes some seconds."""
    keys = _first_keys(dataset, _MOST)
    sizes = [_FEW, _FEW, _GROWTH * _FEW]
    found: list[_Output] = []
    while len(found) < len(sizes):
        number = min(sizes[len(found)], len(keys))
        if len(found) > 1 and number == found[-1].users:
            break
        found.append(_written(keys[:number], path, metadata, options, os.path.join(folder, str(len(found)))))
        if len(found) == len(sizes) and found[-1].seconds < _ENOUGH_SECONDS:
            sizes.append(number * _GROWTH)
    return found


def _written(keys, path: str, metadata: dict, options: BatchOptions, folder: str) -> _Output:
    from pipelines.runners.options import beam_options

    os.makedirs(folder)
    file, to = os.path.join(folder, "users.parquet"), os.path.join(folder, "output")
    pq.write_table(pa.table({"user": keys}), file)
    started = time.monotonic()
    manifest = score(Scoring(path, metadata, ScoredUsers(None, file), options), to, beam_options(None, []))
    seconds = time.monotonic() - started
    shutil.rmtree(folder)
    return _Output(len(keys), seconds, sum(shard["bytes"] for shard in manifest["shards"]))


def _first_keys(dataset, most: int):
    """Keys of the first users of the catalog; DataError when there are none."""
    pieces, number = [], 0
    for piece in catalog_keys(dataset):
        pieces.append(piece)
        number += len(piece)
        if number >= most:
            break
    if not number:
        raise DataError(f"{dataset.path}: has no users")
    return pa.concat_arrays(pieces)[:most]


def _count(dataset) -> tuple[int, float]:
    """Number of users, and the seconds that their keys take to be read and spooled, from some of them."""
    started = time.monotonic()
    users = 0

    def counted() -> Iterator:
        nonlocal users
        for piece in catalog_keys(dataset):
            users += len(piece)
            yield piece

    with tempfile.TemporaryDirectory(prefix="lazytower-plan-") as folder:
        spool_keys(counted(), folder, 1 << 20)
    return users, time.monotonic() - started
