"""From raw interactions to recommendations with every path in a bucket: as on a local disk, bit for bit."""

import gzip
import random

import yaml

from tests.gcs_bucket import Bucket, bucket  # noqa: F401 - a fixture

USERS, ITEMS = 60, 40


def interactions() -> str:
    """A CSV of users who prefer the items near their own number."""
    draw, lines = random.Random(3), ["user,item,time"]
    for time in range(3000):
        user = draw.randrange(USERS)
        item = (user + round(draw.gauss(0, 4))) % ITEMS
        lines.append(f"u{user},i{item},{1_600_000_000 + 60 * time}")
    return "\n".join(lines) + "\n"


def document(root: str) -> dict:
    """A run with every path under `root`."""
    return {
        "name": "chain",
        "source": {
            "kind": "delimited",
            "paths": [f"{root}/raw/*.csv.gz"],
            "roles": {"user": "user", "item": "item", "timestamp": "time"},
        },
        "dataset": {"path": f"{root}/dataset", "split": {"kind": "leave_last_out"}, "num_shards": 2},
        "model": {"kind": "two_tower"},
        "tables": {name: {"dim": 8, "optimizer": {"learning_rate": 0.02}} for name in ("user", "item")},
        "polyak": {"decay": 0.9},
        "train": {"batch_size": 64, "num_steps": 200, "steps_per_loop": 10},
        "checkpoint": {"every_steps": 50, "keep": 2},
        "evaluate": {"every_steps": 100, "k": [5]},
        "output": {"path": f"{root}/run"},
    }


def test_x(bucket, tmp_path):  # noqa: F811
    text = gzip.compress(interactions().encode(), mtime=0)
    bucket.write("raw/part-0.csv.gz", text)
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document(bucket.url)))
    print(bucket.lazytower("prepare", "--config", str(path)))
    print(bucket.names())
    import collections

    print(collections.Counter(r.split()[0] for r in bucket.store.requests))
