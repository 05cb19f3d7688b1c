"""Raw files of several days, for `prepare` day by day and for all days at once."""

import csv
import os
import random

from configs.load import parse_config
from configs.schema import RunConfig

FEATURES = [
    {"name": "tags", "of": "item", "kind": "list", "separator": "|", "weights": "w", "max_length": 3},
    {"name": "genre", "of": "item", "kind": "categorical"},
    {"name": "age", "of": "user", "kind": "numeric", "buckets": {"boundaries": [18, 25.5, 40]}},
    {"name": "price", "of": "item", "kind": "numeric", "missing": -1.0},
    {"name": "device", "of": "context", "kind": "categorical"},
    {"name": "pair", "of": "context", "kind": "cross", "keys": ["genre", "device"], "rows": 4000},
]
COLUMNS = "user item ts label split tags w genre age price device".split()
DAY = 86_400


def day_rows(rng: random.Random, day: int, number: int, is_last: bool) -> list[dict]:
    """Rows of one day by time, with new users and items; only the last day has held-out rows."""
    rows = []
    for i in range(number):
        user, item = rng.randrange(5 * day, 25 + 5 * day), rng.randrange(3 * day, 15 + 3 * day)
        tags = [rng.choice("abcdef"[: 3 + day]) for _ in range(rng.choice([0, 1, 3]))]
        held_out = "train" if not is_last or i < 0.7 * number else "valid" if i < 0.85 * number else "test"
        rows.append(
            {
                "user": f"u{user}", "item": f"i{item}", "ts": day * DAY + i * DAY // number,
                "label": rng.choice("0111"), "split": held_out,
                "tags": "|".join(tags), "w": "|".join(rng.choice(["1", "0.25"]) for _ in tags),
                "genre": rng.choice(["", f"g{item % (3 + day)}"]),
                "age": rng.choice(["", str(user)]), "price": rng.choice(["", f"{item + day}.5"]),
                "device": rng.choice(["tv", "phone", "", f"new{day}"]),
            }
        )  # fmt: skip
    return rows


def write_days(directory: str, days: int, number: int = 120, seed: int = 3) -> list[list[dict]]:
    """Writes day0.csv ... and returns their rows."""
    rng, found = random.Random(seed), []
    for day in range(days):
        found.append(day_rows(rng, day, number, day == days - 1))
        with open(os.path.join(directory, f"day{day}.csv"), "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(found[-1])
    return found


def day_config(directory: str, days: list[int], name: str, base: str | None = None, **sections) -> RunConfig:
    """A run on the rows of some days, in the dataset `name` on that of `base`."""
    document = {
        "source": {
            "kind": "delimited",
            "paths": [os.path.join(directory, f"day{day}.csv") for day in days],
            "header": True,
            "roles": {"user": "user", "item": "item", "timestamp": "ts", "label": "label", "split": "split"},
            "features": FEATURES,
        },
        "dataset": {
            "path": os.path.join(directory, name),
            "split": {"kind": "given"},
            "history_length": 4,
            "num_shards": 3,
        },
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history", "age"], "layers": [8]},
            "item_tower": {"inputs": ["item", "tags", "genre", "price"], "layers": [8]},
            "normalize": True,
        },
        "train": {"batch_size": 32, "num_steps": 20, "steps_per_loop": 5},
        "checkpoint": {"every_steps": 20},
        "output": {"path": os.path.join(directory, f"run-{name}")},
    }
    if base is not None:
        document["dataset"]["base"] = os.path.join(directory, base)
    for section, keys in sections.items():
        document[section] = {**document.get(section, {}), **keys}
    return parse_config(document, "test")
