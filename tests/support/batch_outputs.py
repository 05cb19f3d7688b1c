"""Finished outputs of `lazytower score --what topk` with given lists, without a model."""

import os

import pyarrow as pa

from trainer.batch.request import BatchOptions, request_document
from trainer.batch.shard import write_shard
from trainer.batch.target import Shard, Target

ENTRY = pa.struct([("item", pa.dictionary(pa.int32(), pa.string())), ("score", pa.float32())])
SCHEMA = pa.schema([("user", pa.string()), ("known", pa.bool_()), ("items", pa.list_(ENTRY))])


def lists_batch(lists: dict[str, list[str]]) -> pa.RecordBatch:
    """A batch of users with their items, the scores of which fall from 0."""
    rows = [
        {"user": user, "known": True, "items": [{"item": i, "score": -n} for n, i in enumerate(items)]}
        for user, items in lists.items()
    ]
    return pa.RecordBatch.from_pylist(rows, schema=SCHEMA)


def write_lists(
    path, lists: dict[str, list[str]], k: int, format_name="parquet", shard_rows=3, users="the same"
) -> str:
    """Writes an output of k items per user; `users` tells apart outputs of different users."""
    options = BatchOptions(what="topk", format=format_name, shard_rows=shard_rows, k=k)
    target = Target(
        str(path), request_document({"version": 1, "recommended_items": 50}, {"of": users}, options)
    )
    os.makedirs(path)
    assert target.begin(False) is None
    names = list(lists)
    parts = []
    for number, start in enumerate(range(0, len(names), shard_rows)):
        some = {name: lists[name] for name in names[start : start + shard_rows]}
        parts.append(Shard(f"topk-{number:05d}.{format_name}", len(some), "users", ""))
        write_shard(str(path), parts[-1].name, format_name, SCHEMA, [lists_batch(some)])
    target.plan(parts)
    target.complete(parts)
    return str(path)
