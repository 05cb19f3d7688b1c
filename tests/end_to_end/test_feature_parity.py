"""10,000 raw rows with features of every kind through `prepare` and the reader, and as requests through the
served model's inputs in a fresh process: ids are equal, and numbers to 1e-6."""

import itertools
import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs.load import parse_config
from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.support.feature_worlds import DIM, every_kind, raw_context, raw_item, raw_user
from trainer.data.batches import TrainData
from trainer.data.catalog import Items
from trainer.data.features import WEIGHT
from trainer.data.lookups import catalog_lookups
from trainer.serving.inputs.build import feature_inputs, read_features
from trainer.serving.inputs.kinds import WEIGHT_OF
from trainer.serving.user_rows import load_user_rows

ROWS, USERS, ITEMS = 10_000, 300, 120
PROGRAM = """
import pickle, sys
import tensorflow as tf
with open(sys.argv[2], "rb") as file:
    given = pickle.load(file)
model = tf.saved_model.load(sys.argv[1])
found = model.signatures["inputs"](**{name: tf.constant(value) for name, value in given.items()})
assert not any(name.split(".")[0] in ("trainer", "configs", "pipelines") for name in sys.modules)
with open(sys.argv[3], "wb") as file:
    pickle.dump({name: value.numpy() for name, value in found.items()}, file)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(config, dataset, rows, users by key)."""
    directory = tmp_path_factory.mktemp("parity")
    draw = random.Random(11)
    users = {f"ü{n}": raw_user(draw) for n in range(USERS)}
    items = {f"item {n}": raw_item(draw) for n in range(ITEMS)}
    rows = []
    for _ in range(ROWS):
        user, item = f"ü{draw.randrange(USERS + 20)}", f"item {draw.randrange(ITEMS + 5)}"
        row = {"user": user, "item": item, "kind": draw.choice(["k0", ""]), "level": draw.choice([None, 7.5])}
        rows.append(row | raw_context(draw))
    document = every_kind(str(directory))
    source = document["source"]
    _write(directory / "rows.jsonl", rows)
    source["paths"] = [str(directory / "rows.jsonl")]
    for side, table in zip(source["sides"], (users, items), strict=True):
        path = directory / f"{side['of']}s.jsonl"
        _write(path, [{"id": key, **values} for key, values in table.items()])
        side["paths"] = [str(path)]
    document["dataset"] |= {"duplicates": "keep", "split": {"kind": "random", "test_fraction": 0.01}}
    document["dataset"]["split"]["valid_fraction"] = 0.0
    config = parse_config(document, "parity")
    prepare(config.source, config.dataset)
    return config, load_dataset(config.dataset.path), rows, users


def _write(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(config, dataset) -> dict[str, np.ndarray]:
    """Columns of all rows of train, in the order of the source."""
    names = config.model.inputs
    data = TrainData(dataset, 1, 1, True, names, catalog_lookups(dataset, names, Items.load(dataset)))
    data._batch_size = 512  # the whole split, its last rows too
    batches = data._epoch(*[tf.zeros([], tf.int64)] * 6).unbatch().batch(1 << 20)
    [batch] = itertools.islice(batches.as_numpy_iterator(), 1)
    order = np.argsort(batch["timestamp"])
    return {name: values[order] for name, values in batch.items()}


def requests(config, rows: list[dict], users: dict) -> dict[str, list]:
    """What a client that knows the raw rows sends."""
    found: dict[str, list] = {}
    for name, feature in config.features.items():
        if feature.of == "item" or feature.kind == "cross":
            continue
        side = any(name == f.name for table in config.source.sides for f in table.features)
        cells = [users.get(row["user"], {}) if side else row for row in rows]
        values = [cell.get(feature.source_column) for cell in cells]
        if feature.kind == "categorical":
            found[name] = [(value or "").encode() for value in values]
        elif feature.kind == "numeric":
            found[name] = np.array([np.nan if v is None else v for v in values], np.float32)
        elif feature.kind == "vector":
            found[name] = np.array([[np.nan] * DIM if v is None else v for v in values], np.float32)
        else:
            width = max(len(value or []) for value in values)
            found[name] = [[key.encode() for key in v or []] + [b""] * (width - len(v or [])) for v in values]
            if feature.weights:
                weights = [cell.get(feature.weights) or [] for cell in cells]
                padded = [row + [0.0] * (width - len(row)) for row in weights]
                found[WEIGHT_OF + name] = np.array(padded, np.float32)
    return found


class Probe(tf.Module):
    """What the served model makes of the requests of users whom it does not know."""

    def __init__(self, config, dataset):
        names = read_features(dataset, config.model.user_tower.inputs)
        of_users = [name for name in names if dataset.features[name].of == "user"]
        known = load_user_rows(dataset, Items.load(dataset), 0, False, of_users).features
        self.inputs = feature_inputs(dataset, names, known)
        specs = [spec for feature in self.inputs.values() for spec, _ in feature.specs()]
        oov = dataset.tables["user"].oov

        @tf.function(input_signature=specs)
        def function(*values):
            given = dict(zip([spec.name for spec in specs], values, strict=True))
            nobody = tf.fill([tf.shape(values[0])[0]], tf.constant(oov, tf.int64))
            found = {}
            for feature in self.inputs.values():
                with tf.control_dependencies(feature.checks(given)):
                    found |= feature.values(dict.fromkeys(("user", "context"), nobody), given)
            return {name.replace(WEIGHT, "_share"): value for name, value in found.items()}

        self.function = function


@pytest.mark.slow
def test_reader_and_served_model_agree_on_every_row(world, tmp_path):
    config, dataset, rows, users = world
    batch = read(config, dataset)
    kept = [rows[number] for number in batch["timestamp"]]
    assert len(kept) > 0.95 * ROWS
    probe = Probe(config, dataset)
    tf.saved_model.save(probe, str(tmp_path / "model"), signatures={"inputs": probe.function})
    with open(tmp_path / "requests", "wb") as file:
        pickle.dump(requests(config, kept, users), file)
    command = [
        sys.executable,
        "-I",
        "-c",
        PROGRAM,
        *(str(tmp_path / n) for n in ("model", "requests", "found")),
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    with open(tmp_path / "found", "rb") as file:
        found = pickle.load(file)
    compared = [name for name in found if name.replace("_share", WEIGHT) in batch]
    assert {"likes_share", *config.model.user_tower.inputs} - {"user", "history"} == set(compared)
    for name in compared:
        expected = batch[name.replace("_share", WEIGHT)]
        if expected.dtype == np.int64:
            np.testing.assert_array_equal(found[name], expected, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-6, err_msg=name)
    assert len(np.unique(batch["device_channel"])) > 10 and len(np.unique(batch["hour"])) > 3
