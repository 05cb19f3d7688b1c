"""Raw impressions to figures: `prepare` and evaluation against plain Python, with counts of what is left out.

The worlds hold labels, repeats, events delivered twice, users below min_count, cold users, and cold items
that come again.
"""

import collections
import random

import numpy as np
import pytest

from configs.manifest import load_dataset
from configs.sections.evaluation import EvaluateConfig
from configs.splitmix import hash_ids
from tests.pipelines.test_prepare import SMALL, SPLITS, split_function
from tests.pipelines.test_prepare_semantics import split_of
from tests.support.prepared import Reference, run
from tests.trainer.evaluation.test_ranking import one_user, rank
from trainer.commands.evaluate import format_results
from trainer.data.catalog import Items, Users
from trainer.evaluation import ranking
from trainer.evaluation.baselines import Popularity
from trainer.evaluation.negatives import sample_negatives

pytestmark = pytest.mark.any_python

NAMES = {1: "valid", 2: "test"}


def impressions(seed: int, labels: list[float], n: int = 420) -> list[dict]:
    """Later rows bring new items and users, and the same ones again."""
    rng = random.Random(seed)
    rows = []
    for row in range(n):
        if rows and rng.random() < 0.12:
            rows.append(dict(rng.choice(rows[-60:]), row=row))
            continue
        new = row > 0.7 * n and rng.random() < 0.3
        user = f"v{rng.randrange(8)}" if new and rng.random() < 0.5 else f"u{int(45 * rng.random() ** 2)}"
        item = f"j{rng.randrange(5)}" if new else f"i{int(30 * rng.random() ** 2)}"
        label = rng.choice(labels)
        rows.append(
            {"user": user, "item": item, "label": label, "timestamp": 1_000_000 + row // 3, "row": row}
        )
    return rows


def prepared(tmp_path, rows, options):
    lines = [f"{r['user']},{r['item']},{r['label']},{r['timestamp']}\n" for r in rows]
    (tmp_path / "in.csv").write_text("user,item,label,time\n" + "".join(lines))
    roles = {"label": "label", "timestamp": "time"}
    source = {"kind": "delimited", "paths": [str(tmp_path / "in.csv")], "roles": roles}
    path = str(tmp_path / "out")
    run(source, {"path": path, "seed": 3, **options}, **SMALL)
    return load_dataset(path)


class ByKey:
    """Scores that depend on the keys alone, with ties."""

    name = "by_key"

    def __init__(self, items: Items, negatives: bool = False):
        self.items, self.asked = items, negatives

    @staticmethod
    def score(user: bytes, item: bytes) -> float:
        return random.Random(user + b"/" + item).randrange(40) / 8

    def scores(self, users, items):
        every = np.tile(np.arange(self.items.rows), (len(users), 1)) if items is None else items
        keys = self.items.keys
        return np.array(
            [[self.score(u, keys[i]) for i in row] for u, row in zip(users.keys, every, strict=True)],
            np.float32,
        )


class World:
    """The reference of an evaluation: users are those of the user table, items are keys."""

    def __init__(self, reference: Reference, config: EvaluateConfig, split: int):
        self.reference, self.config, self.split = reference, config, split
        self.known = {key for i, key, count in reference.items() if count and reference.has_row("item", i)}
        self.counts = collections.Counter(dict.fromkeys(
            "users targets cold_targets seen_users seen_targets repeated_rows unsampled_users "
            "unsampled_user_rows".split(), 0
        ))  # fmt: skip
        self.counts |= reference.left_out(split)
        held_out = [row for row in reference.rows if row["split"] == split]
        self.counts["split_rows"] = len(held_out)
        self.counts["not_positive_rows"] = sum(not reference.is_positive(row) for row in held_out)

    def users(self):
        """(id, key, distinct targets, distinct earlier items, rows in the split) of users to evaluate."""
        found = []
        for i, key, count in [user[:3] for user in self.reference.users()]:
            own = [row for row in self.reference.rows_of("user", i) if self.reference.is_positive(row)]
            now = [row["item"].encode() for row in own if row["split"] == self.split]
            before = {row["item"].encode() for row in own if row["split"] < self.split}
            if now and count and self.reference.has_row("user", i):
                found.append((i, key, set(now), before, len(now)))
        most = self.config.max_users
        if most is not None:
            found.sort(key=lambda user: hash_ids(self.config.seed, np.array([user[0]]))[0])
            self.counts["unsampled_users"] = len(found[most:])
            self.counts["unsampled_user_rows"] = sum(user[4] for user in found[most:])
        return found[:most]

    def figures(self, score, negatives) -> dict[str, float]:
        values, config = [], self.config
        for i, key, targets, before, rows in self.users():
            self.counts["repeated_rows"] += rows - len(targets)
            left = targets - before if config.exclude_seen and config.protocol == "full" else targets
            self.counts["seen_targets"] += len(targets) - len(left)
            self.counts["seen_users"] += not left
            self.counts["users"] += bool(left)
            self.counts["targets"] += len(left)
            warm = left & self.known
            self.counts["cold_targets"] += len(left - warm)
            if config.protocol == "sampled":
                others = [score(key, item) for item in negatives[i]] if left else []
                values += [one_user([rank(score(key, t), others)], 1, config.k) for t in warm]
                values += [one_user([], 1, config.k)] * len(left - warm)
                continue
            allowed = self.known - before if config.exclude_seen else self.known
            ranks = [rank(score(key, t), [score(key, o) for o in allowed - {t}]) for t in warm]
            if left:
                values.append(one_user(ranks, len(left), config.k))
        return {name: sum(value[name] for value in values) / len(values) for name in values[0]}


FULL = {"k": [1, 5, 20]}
PARTS = (
    "not_positive_rows cold_user_rows rare_user_rows unsampled_user_rows repeated_rows seen_targets".split()
)
SAMPLED = {"k": [1, 5], "protocol": "sampled", "negatives": 6}
LIGHT = {"user_ids": {"kind": "vocab", "min_count": 3}, "item_ids": {"kind": "vocab", "min_count": 2}}
WORLDS = [
    (1, "temporal", [0.0, 1.0], LIGHT, FULL),
    (2, "temporal", [0.0, 1.0, 1.0], LIGHT | {"duplicates": "keep"}, FULL | {"exclude_seen": False}),
    (3, "leave_last_out", [-1.0, 1.0], {"item_ids": LIGHT["item_ids"]}, FULL),
    (4, "random", [1.0, 2.0, 5.0], LIGHT | {"positive": 2, "duplicates": "keep"}, FULL | {"max_users": 9}),
    (5, "temporal", [0.0, 1.0], {"user_ids": {"kind": "hash", "rows": 37}}, FULL),
    (6, "temporal", [0.0, 1.0], LIGHT, SAMPLED),
    (7, "random", [0.0, 0.0, 1.0], {}, SAMPLED),
]  # fmt: skip


@pytest.mark.parametrize("seed, kind, labels, options, evaluate", WORLDS)
def test_figures_and_counts_equal_plain_python(tmp_path, seed, kind, labels, options, evaluate):
    rows = impressions(seed, labels)
    dataset = prepared(tmp_path, rows, {"split": SPLITS[kind], **options})
    threshold = options.get("positive")
    reference = Reference(
        rows,
        split_of(kind, rows, options.get("duplicates")) if kind == "random" else split_function(kind, rows),
        min_rows=4,
        min_count=2,
        hash_rows={"user": 37} if options.get("user_ids", {}).get("kind") == "hash" else None,
        positive=lambda label: label > 0 if threshold is None else label >= threshold,
        duplicates=options.get("duplicates", "drop"),
    )
    reference.least = {name: options.get(f"{name}_ids", {}).get("min_count", 1) for name in ("user", "item")}
    reference.user_ids, reference.item_ids = reference.ids("user"), reference.ids("item")
    items = Items.load(dataset)
    users, config = Users(dataset, items), EvaluateConfig(seed=5, **evaluate)
    for split, name in NAMES.items():
        scorers = [ByKey(items), Popularity(items)]
        results = ranking.evaluate_scorers(scorers, users, config, name)
        negatives = negatives_of(users, config, name)
        world = World(reference, config, split)
        popularity, count = World(reference, config, split), reference.counts("item")
        for scorer, expected in (
            ("by_key", world.figures(ByKey.score, negatives)),
            ("popularity", popularity.figures(lambda _, i, count=count: count[i.decode()], negatives)),
        ):
            for metric in [n for n in results[scorer] if "@" in n or n == "mrr"]:
                assert results[scorer][metric] == pytest.approx(expected[metric], abs=1e-12), metric
        found = results["by_key"]
        assert {n: v for n, v in found.items() if type(v) is int and v} == {
            n: v for n, v in world.counts.items() if v
        }
        # Every row of the split is accounted for.
        parts = (
            "not_positive_rows cold_user_rows rare_user_rows unsampled_user_rows repeated_rows seen_targets"
        )
        assert found["split_rows"] == found["targets"] + sum(found[part] for part in parts.split())
        text = format_results([{"scorer": n, "split": name, **line} for n, line in results.items()])
        for part in ("not_positive_rows", "seen_targets", "cold_users", "rare_users"):
            assert (f"{found[part]:,} " in text.split("left out: ")[1]) or not found[part]
        rule = "label > 0" if threshold is None else f"label >= {threshold}"
        assert f"only positive rows count ({rule})" in text


def negatives_of(users: Users, config: EvaluateConfig, split: str) -> dict[int, list[bytes]]:
    """Keys of the negatives of each user, as drawn; none was touched."""
    found = {}
    if config.protocol == "sampled":
        for block in users.blocks():
            touched = users.view(block, split).touched
            drawn = sample_negatives(block.ids, touched, users.items, config.negatives, config.seed)
            for n, i in enumerate(block.ids):
                row = np.array([n])
                mine = drawn.take(row).values
                assert not set(mine) & set(touched.take(row).values)
                found[int(i)] = users.items.keys[mine].tolist()
    return found


def test_the_worlds_hold_what_they_are_for(tmp_path):
    """Each reason to leave something out occurs in one of them."""
    rows = impressions(1, [0.0, 1.0])
    dataset = prepared(tmp_path, rows, {"split": SPLITS["temporal"], "duplicates": "keep", **LIGHT})
    users = Users(dataset, Items.load(dataset))
    found = ranking.evaluate_scorers([ByKey(users.items)], users, EvaluateConfig(max_users=4), "test")[
        "by_key"
    ]
    names = ["cold_targets", "cold_users", "rare_users", "unsampled_users", "seen_targets", "repeated_rows"]
    assert {name: found[name] > 0 for name in names} == dict.fromkeys(names, True)
    assert dataset.duplicates > 5
