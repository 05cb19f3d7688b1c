"""A run with features of every kind, and raw data for it."""

import os
import random

from tests.support.feature_dataset import World

USERS, ITEMS, DIM = 30, 40, 5
TAGS = ["red", "grün", "b/lue", "a b", "日本", "x,y"]
_GIVEN = ["news", "späte", "old"]


def every_kind(directory: str) -> dict:
    """The config of a run; the vocabulary file of `channel` is written.

    `tags` of users and items share a table, weighted for users; crosses are of a user and of the context.
    """
    given = os.path.join(directory, "channels.txt")
    with open(given, "w", encoding="utf-8") as file:
        file.write("".join(f"{key}\n" for key in _GIVEN))
    side = {"kind": "jsonl", "paths": ["none.jsonl"], "key": "id"}
    users = [
        {"name": "country", "kind": "categorical"},
        {"name": "plan", "kind": "categorical"},
        {"name": "country_plan", "kind": "cross", "keys": ["country", "plan"], "rows": 17},
        {"name": "likes", "kind": "list", "weights": "like_weights", "table": "tags", "max_length": 3},
        {"name": "age", "kind": "numeric", "buckets": {"boundaries": [18, 30, 50]}, "transform": []},
        {"name": "taste", "kind": "vector", "dim": DIM},
    ]
    items = [
        {"name": "tags", "kind": "list", "max_length": 4},
        {"name": "price", "kind": "numeric", "transform": ["log1p", {"clip": [0, 6]}, "standardize"]},
        {"name": "look", "kind": "vector", "dim": DIM},
        {"name": "brand", "kind": "categorical"},
    ]
    rows = [
        {"name": "device", "of": "context", "kind": "categorical"},
        {"name": "channel", "of": "context", "kind": "categorical"},
        {"name": "query", "of": "context", "kind": "list", "max_length": 2},
        {"name": "hour", "of": "context", "kind": "numeric", "missing": 12, "buckets": {"quantiles": 4}},
        {"name": "budget", "of": "context", "kind": "numeric", "missing": 3, "transform": ["log1p"]},
        {
            "name": "device_channel",
            "of": "context",
            "kind": "cross",
            "keys": ["device", "channel"],
            "rows": 23,
        },
        {"name": "level", "of": "user", "kind": "numeric", "missing": 0},
        {"name": "kind", "of": "item", "kind": "categorical"},
    ]
    rows[1]["table"] = "channels"
    user = [f["name"] for f in (*users, *rows) if f.get("of") != "item"]
    item = [f["name"] for f in (*items, *rows[-1:])]
    return {
        "name": "features",
        "source": {
            "kind": "jsonl",
            "paths": ["none.jsonl"],
            "features": rows,
            "sides": [
                {**side, "of": "user", "features": users},
                {**side, "of": "item", "features": items},
            ],
        },
        "dataset": {
            "path": os.path.join(directory, "dataset"),
            "split": {"kind": "leave_last_out"},
            "history_length": 3,
            "user_ids": {"kind": "vocab", "min_count": 2},
            "item_ids": {"kind": "vocab", "min_count": 2},
            "feature_ids": {
                "plan": {"kind": "hash", "rows": 13},
                "channels": {"kind": "given", "path": given, "oov_rows": 3},
                "query": {"kind": "vocab", "min_count": 2},
            },
        },
        "model": {
            "kind": "two_tower",
            "user_tower": {"inputs": ["user", "history", *user], "layers": [12, 8]},
            "item_tower": {"inputs": ["item", *item], "layers": [12, 9]},
            "item_bias": True,
            "loss": {"extra_negatives": 16},
        },
        "tables": {
            **{name: {"dim": 8} for name in ("user", "item")},
            "tags": {"dim": 4, "combiner": "sqrtn"},
            "query": {"dim": 4, "combiner": "sum"},
        },
        "polyak": {"decay": 0.9},
        "train": {"batch_size": 32, "num_steps": 20, "steps_per_loop": 10},
        "output": {"path": os.path.join(directory, "run")},
    }


def raw_world(seed: int = 5) -> World:
    """Rows with popular and rare users and items, and side tables that hold some of them and others."""
    draw = random.Random(seed)
    users, items = [f"ü{n}" for n in range(USERS)], [f"item {n}" for n in range(ITEMS)]
    levels, kinds = {u: draw.random() for u in users}, {i: draw.choice(["k0", "k1", ""]) for i in items}
    rows = []
    for user in users:
        mine = [items[min(int(draw.expovariate(0.12)), ITEMS - 1)] for _ in range(draw.randint(2, 12))]
        for place, item in enumerate(mine):
            split = {len(mine) - 1: "test", len(mine) - 2: "valid"}.get(place, "train")
            rows.append({"user": user, "item": item, "split": split, "label": 1.0})
            rows[-1] |= {"level": levels[user], "kind": kinds[item], **raw_context(draw)}
    draw.shuffle(rows)
    sides = [
        {user: raw_user(draw) for user in [*users[3:], "only in the table"]},
        {item: raw_item(draw) for item in [*items[2:], "fresh 1", "fresh 2"]},
    ]
    return World(rows, sides)


def raw_context(draw: random.Random) -> dict:
    """Columns of a row."""
    return {
        "device": draw.choice(["phone", "tv", "", "näh"]),
        "channel": draw.choice([*_GIVEN, "other", "more", ""]),
        "query": draw.choices(["cheap", "best", "", "ÄÖ", f"rare {draw.random()}"], k=draw.randint(0, 4)),
        "hour": draw.choice([None, 0.0, 23.0, draw.uniform(0, 24)]),
        "budget": draw.choice([None, 0.0, 1e30, draw.expovariate(0.1)]),
    }


def raw_user(draw: random.Random) -> dict:
    """Columns of a user."""
    likes = draw.choices(TAGS, k=draw.randint(0, 5))
    return {
        "country": draw.choice(["FR", "", "日本", "D\u00c9"]),
        "plan": draw.choice(["free", "pro", ""]),
        "likes": likes,
        "like_weights": [draw.choice([0.0, 0.5, 2.0]) for _ in likes],
        "age": draw.choice([None, 18.0, 17.5, 99.0, draw.uniform(0, 100)]),
        "taste": draw.choice([None, [draw.gauss(0, 1) for _ in range(DIM)]]),
    }


def raw_item(draw: random.Random) -> dict:
    """Columns of an item."""
    return {
        "tags": draw.choices([*TAGS, ""], k=draw.randint(0, 6)),
        "price": draw.choice([None, 0.0, 1e9, draw.expovariate(0.1)]),
        "look": draw.choice([None, [draw.gauss(0, 1) for _ in range(DIM)]]),
        "brand": draw.choice(["a", "b", ""]),
    }
