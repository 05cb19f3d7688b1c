"""Vocabulary files of users, items and features of side tables, with several out-of-vocabulary rows, and
buckets of side tables: prepare, training, evaluation, export, and raw requests in a fresh process."""

import collections
import csv
import json
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.support.prepared import read_rows
from tests.support.replays import export_here
from trainer.data.catalog import Items
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.trained import open_trained
from trainer.training.build import train_data
from trainer.training.run import train

pytestmark = pytest.mark.any_python

USERS, ITEMS, OOV_USERS, OOV_ITEMS, OOV_SEGMENTS = 40, 30, 3, 4, 2
LINES = {
    "users": [f"u{n}" for n in range(0, 2 * USERS, 2)] + ["never seen"],
    "items": [f"i{n}" for n in range(ITEMS - 8)],
    "segments": ["b", "a", "ü"],
}
AGES = [18, 30, 50]
PROGRAM = """
import json, sys
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
asked = json.load(open(sys.argv[2]))
found = {}
for name, (signature, inputs) in asked.items():
    given = {key: tf.constant(value) for key, value in inputs.items()}
    answer = getattr(model, signature)(**given)
    kinds = {key: "U" if value.dtype == tf.string else "f" for key, value in answer.items()}
    found[name] = {key: answer[key].numpy().astype(kind).tolist() for key, kind in kinds.items()}
assert not any(name.split(".")[0] in ("trainer", "configs", "pipelines") for name in sys.modules)
json.dump(found, open(sys.argv[3], "w"))
"""


def bucket_of(key: str, rows: int) -> int:
    return int(tf.strings.to_hash_bucket_fast(key, rows))


def write(path, rows: list[dict]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


class World:
    """The run, and what its raw rows were."""

    def __init__(self, directory):
        draw = random.Random(3)
        self.rows = [
            {"user": f"u{draw.randrange(USERS + 25)}", "item": f"i{draw.randrange(ITEMS)}", "ts": n}
            for n in range(1500)
        ]
        segments = ["a", "b", "ü", "other", "more", ""]
        self.users = {
            f"u{n}": {"age": draw.choice(["", 17, 18, 40, 99]), "segment": draw.choice(segments)}
            for n in [*range(1, USERS), 1000, 1001]
        }
        self.items = {
            f"i{n}": {"price": round(draw.uniform(0, 9), 2), "kind": draw.choice(segments)}
            for n in [*range(ITEMS - 3), 500]
        }
        paths = {"rows": write(directory / "rows.csv", self.rows)}
        for name in ("users", "items"):
            table = getattr(self, name)
            rows = [{"id": key, **values} for key, values in table.items()]
            paths[name] = write(directory / f"{name}.csv", rows)
        for name, lines in LINES.items():
            path = directory / f"{name}.txt"
            path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self.config = parse_config(self._document(directory, paths), "given")
        prepare(self.config.source, self.config.dataset)
        self.dataset = load_dataset(self.config.dataset.path)

    def _document(self, directory, paths: dict[str, str]) -> dict:
        given = {
            name: {"kind": "given", "path": str(directory / f"{name}.txt"), "oov_rows": oov}
            for name, oov in (("users", OOV_USERS), ("items", OOV_ITEMS), ("segments", OOV_SEGMENTS))
        }
        age = {"name": "age", "kind": "numeric", "transform": [], "buckets": {"boundaries": AGES}}
        price = {"name": "price", "kind": "numeric", "buckets": {"quantiles": 4}}
        segment, kind = (
            {"name": name, "kind": "categorical", "table": "segments"} for name in ("segment", "kind")
        )
        sides = [("user", "users", [age, segment]), ("item", "items", [price, kind])]
        side = {"kind": "delimited", "key": "id"}
        return {
            "name": "given",
            "source": {
                "kind": "delimited",
                "paths": [paths["rows"]],
                "roles": {"timestamp": "ts"},
                "sides": [
                    {**side, "of": of, "paths": [paths[name]], "features": features}
                    for of, name, features in sides
                ],
            },
            "dataset": {
                "path": str(directory / "dataset"),
                "split": {"kind": "temporal"},
                "user_ids": given["users"],
                "item_ids": given["items"],
                "feature_ids": {"segments": given["segments"]},
                "history_length": 3,
            },
            "model": {
                "kind": "two_tower",
                "user_tower": {"inputs": ["user", "age", "segment"], "layers": [8], "id_dropout": 0.2},
                "item_tower": {"inputs": ["item", "price", "kind"], "layers": [8], "id_dropout": 0.2},
            },
            "tables": {name: {"dim": 8, "init_stddev": 0.5} for name in ("user", "item")},
            "train": {"batch_size": 64, "num_steps": 15},
            "evaluate": {"every_steps": 0, "k": [5]},
            "output": {"path": str(directory / "run")},
        }

    def ids(self, side: str) -> dict[str, int]:
        """Catalog ids by key, as configs/manifest.py describes them."""
        lines, oov = LINES[f"{side}s"], OOV_USERS if side == "user" else OOV_ITEMS
        found = {key: number for number, key in enumerate(lines)}
        depth = collections.Counter()
        for key in sorted({row[side] for row in self.rows} | set(getattr(self, f"{side}s"))):
            if key not in found:
                bucket = bucket_of(key, oov)
                found[key] = len(lines) + oov + bucket + oov * depth[bucket]
                depth[bucket] += 1
        return found

    def row(self, side: str, key: str) -> int:
        """Row of the table."""
        lines, oov = LINES[f"{side}s"], OOV_USERS if side == "user" else OOV_ITEMS
        return lines.index(key) if key in lines else len(lines) + bucket_of(key, oov)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("given"))


@pytest.mark.parametrize("side", ["user", "item"])
def test_the_catalog_has_the_file_and_all_other_keys(world, side):
    table, ids = world.dataset.tables[side], world.ids(side)
    files = (world.dataset.users if side == "user" else world.dataset.items).files
    found = {row["key"].decode(): row for row in read_rows(world.dataset, files)}
    assert {key: row["id"] for key, row in found.items()} == ids
    counts = collections.Counter(row[side] for row in world.rows[: world.dataset.splits["train"].rows])
    assert {key: row["count"] for key, row in found.items()} == {key: counts[key] for key in ids}
    lines = len(LINES[f"{side}s"])
    oov = OOV_USERS if side == "user" else OOV_ITEMS
    assert (table.ids, table.keys, table.oov, table.oov_rows, table.rows) == (
        *("given", lines, lines, oov, lines + oov),
    )
    assert table.oov_keys == len(ids) - lines and max(ids.values()) < table.catalog_rows
    keys = list(ids)
    rows = table.row_of(np.array([ids[key] for key in keys]))
    assert rows.tolist() == [world.row(side, key) for key in keys]


def test_sides_find_their_owners_and_empty_ids(world):
    for info, table, side in zip(
        world.dataset.sides, (world.users, world.items), ("user", "item"), strict=True
    ):
        used = {row[side] for row in world.rows}
        counts = (len(used & set(table)), len(set(table) - used), len(used - set(table)))
        assert (info.matched, info.alone, info.missing) == counts
    items = Items.load(world.dataset)
    for key, number in world.ids("item").items():
        kind = world.items.get(key, {}).get("kind", "")
        lines = LINES["segments"]
        row = lines.index(kind) if kind in lines else len(lines) + bucket_of(kind, OOV_SEGMENTS)
        assert items.features["kind"][number] == row
        price = world.items.get(key, {}).get("price")
        np.testing.assert_equal(
            items.features["price"][number], np.float32("nan" if price is None else price)
        )


def test_the_division_of_work_does_not_matter(world, tmp_path):
    section = world.config.dataset.model_copy(update={"path": str(tmp_path / "again")})
    again = prepare(world.config.source, section, user_shards=1, key_shards=1)
    assert again.fingerprint == world.dataset.fingerprint and again.tables == world.dataset.tables
    assert again.splits == world.dataset.splits


@pytest.mark.slow
def test_training_reads_table_rows_and_requests_find_the_same(world, tmp_path):
    config, dataset = world.config, world.dataset
    data = train_data(config, dataset, Items.load(dataset))
    batch = next(data.batches(0).as_numpy_iterator())
    for user, item, when in zip(batch["user"], batch["item"], batch["timestamp"], strict=True):
        row = world.rows[when // 10**9]
        assert (user, item) == (world.row("user", row["user"]), world.row("item", row["item"]))
    train(config)
    trained = open_trained(config)
    results = evaluate_recommender(trained.recommender, dataset, trained.items, trained.step, "test")[0]
    assert results["users"] > 0 and 0 <= results["ndcg@5"] <= 1
    path = export_here(config)
    users = ["u2", "u3", "u1000", "never seen", *(f"stranger {n}" for n in range(9))]
    ages, kinds = [17.0, 18.0, 49.0, 99.0, *[30.0] * 9], ["ü", "a", "other", "more", *["b"] * 9]
    items = ["i1", f"i{ITEMS - 1}", "i500", *(f"new {n}" for n in range(9))]
    asked = {
        "users": ("user_embedding", {"user": users, "age": ages, "segment": kinds}),
        "items": ("item_embedding", {"item": items}),
        "lists": ("recommend", {"user": users, "k": 100}),
        "where": ("recommend", {"user": users, "where_kind": [["ü"]]}),
    }
    (tmp_path / "asked").write_text(json.dumps(asked))
    names = [path, *(str(tmp_path / name) for name in ("asked", "found"))]
    subprocess.run([sys.executable, "-I", "-c", PROGRAM, *names], check=True, cwd=tmp_path)
    found = json.loads((tmp_path / "found").read_text())
    lines = LINES["segments"]
    inputs = {
        "user": np.array([world.row("user", key) for key in users]),
        "age": np.searchsorted(np.float32(AGES), np.float32(ages), side="right"),
        "segment": np.array(
            [lines.index(k) if k in lines else len(lines) + bucket_of(k, OOV_SEGMENTS) for k in kinds]
        ),
    }
    assert len({*inputs["user"][4:].tolist()}) == OOV_USERS  # strangers are on all of the rows
    with trained.recommender.averaged_dense():
        expected = trained.recommender.user_vectors(inputs, True, float(trained.step)).numpy()
    np.testing.assert_allclose(found["users"]["embedding"], expected, rtol=1e-5, atol=1e-6)
    new = np.array(found["items"]["embedding"])[3:]
    rows = [world.row("item", key) for key in items[3:]]
    for one, row in zip(new, rows, strict=True):
        for other, its in zip(new, rows, strict=True):
            assert np.array_equal(one, other) == (row == its)
    known = set(LINES["items"])
    served = {item for row in found["lists"]["items"] for item in row if item}
    cold = {key for key in world.items if key not in known}
    assert served <= known | cold | {row["item"] for row in world.rows} and served & known
    having = {key for key, values in world.items.items() if values["kind"] == "ü"}
    assert {item for row in found["where"]["items"] for item in row if item} <= having
