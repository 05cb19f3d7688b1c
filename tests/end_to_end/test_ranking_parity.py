"""10,000 raw rows with features of every kind through `prepare`, `split_rows` and the predictions of the
evaluator, and as requests through the exported model in a fresh process: predictions are equal to 1e-6."""

import json
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest

from configs.load import parse_config
from configs.manifest import load_dataset
from pipelines.prepare import prepare
from tests.end_to_end.test_feature_parity import requests
from tests.support.feature_worlds import every_kind, raw_context, raw_item, raw_user
from tests.support.replays import export_here
from trainer.data.lookups import catalog_lookups
from trainer.data.split_rows import split_rows
from trainer.evaluation.trained import open_trained

pytestmark = pytest.mark.any_python

ROWS, USERS, ITEMS = 10_000, 300, 120
PROGRAM = """
import pickle, sys
import numpy as np
import tensorflow as tf
with open(sys.argv[2], "rb") as file:
    asked = pickle.load(file)
score = tf.saved_model.load(sys.argv[1]).signatures["score"]
found = []
for given in asked:
    for name, spec in score.structured_input_signature[1].items():
        if name not in given:  # what says nothing
            empty = "" if spec.dtype == tf.string else np.nan
            given[name] = np.full([1, *(size or 0 for size in spec.shape[1:])], empty)
    answer = score(**{name: tf.constant(given[name], spec.dtype)
                      for name, spec in score.structured_input_signature[1].items()})
    found.append({name: value.numpy() for name, value in answer.items()})
assert not any(name.split(".")[0] in ("trainer", "configs", "pipelines") for name in sys.modules)
with open(sys.argv[3], "wb") as file:
    pickle.dump(found, file)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(config, rows, users by key, items by key), prepared, trained and exported."""
    directory = tmp_path_factory.mktemp("parity")
    draw = random.Random(12)
    users = {f"ü{n}": raw_user(draw) | {"level": draw.choice([0.0, 7.5])} for n in range(USERS)}
    items = {f"item {n}": raw_item(draw) | {"kind": draw.choice(["k0", ""])} for n in range(ITEMS)}
    rows = []
    for _ in range(ROWS):
        user, item = f"ü{draw.randrange(USERS + 20)}", f"item {draw.randrange(ITEMS + 5)}"
        level, kind = users.get(user, {}).get("level", 3.5), items.get(item, {}).get("kind", "k1")
        row = {"user": user, "item": item, "level": level, "kind": kind, **raw_context(draw)}
        row["click"] = int(draw.random() < (0.7 if row["device"] == "tv" else 0.2))
        row["buy"] = draw.choice(["yes", "no", ""]) if row["click"] else "no"
        rows.append(row)
    config = parse_config(_document(directory, rows, users, items), "parity")
    prepare(config.source, config.dataset)
    return config, rows, users, items


def _document(directory, rows: list[dict], users: dict, items: dict) -> dict:
    document = every_kind(str(directory))
    source = document["source"]
    _write(directory / "rows.jsonl", rows)
    source["paths"] = [str(directory / "rows.jsonl")]
    labels = {"buy": {"column": "buy", "ones": ["yes"]}}
    source["roles"] = {"user": "user", "item": "item", "label": "click", "labels": labels}
    for side, table in zip(source["sides"], (users, items), strict=True):
        path = directory / f"{side['of']}s.jsonl"
        _write(path, [{"id": key, **values} for key, values in table.items()])
        side["paths"] = [str(path)]
    names = [f["name"] for part in (source, *source["sides"]) for f in part["features"]]
    document["dataset"] |= {"duplicates": "keep", "split": {"kind": "random", "test_fraction": 0.01}}
    document["dataset"]["split"]["valid_fraction"] = 0.0
    document["dataset"]["user_ids"] = document["dataset"]["item_ids"] = {"kind": "vocab", "min_count": 20}
    document["model"] = {
        "kind": "ranking",
        "inputs": ["user", "item", "history", *names],
        "tasks": [{"name": "click"}, {"name": "buy", "label": "buy", "where": "label"}],
        "top": [16],
        "bottom": [8],
    }
    document["train"] = {"batch_size": 512, "num_steps": 4, "steps_per_loop": 2}
    return document


def _write(path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.mark.slow
def test_evaluator_and_served_model_agree_on_every_row(world, tmp_path):
    from trainer.training.run import train

    config, rows, users, _ = world
    train(config)
    path, trained, dataset = export_here(config), open_trained(config), load_dataset(config.dataset.path)
    reads = trained.recommender.model.inputs
    batches = split_rows(dataset, "train", reads, catalog_lookups(dataset, reads, trained.items), 1 << 20)
    [batch] = list(batches)
    assert len(batch["timestamp"]) > 0.95 * ROWS
    kept = [rows[number] for number in batch["timestamp"]]
    said = requests(config, kept, users)
    histories = [[trained.items.keys[i] for i in row if i >= 0] for row in batch["history"]]
    width = dataset.history_length
    said["history"] = [
        ([*row] or [b"no such item"]) + [b""] * (width - max(len(row), 1)) for row in histories
    ]
    # By key: side tables are looked up. By value: nobody's features, all in the request.
    by_key = {name: values for name, values in said.items() if _of_records(dataset, name)}
    by_key |= {of: [row[of].encode() for row in kept] for of in ("user", "item")}
    nobody = {"item": by_key["item"], **said}
    expected = [_evaluated(trained, batch), _evaluated(trained, batch | {"user": _unknown(dataset, batch)})]
    found = _served(path, [by_key, nobody], tmp_path)
    for answer, values in zip(found, expected, strict=True):
        assert set(answer) == {"click", "buy"}
        for task in answer:
            assert values[task].std() > 1e-3
            np.testing.assert_allclose(answer[task], values[task], rtol=0, atol=1e-6, err_msg=task)
    assert np.abs(expected[0]["click"] - expected[1]["click"]).max() > 1e-4


def _of_records(dataset, name: str) -> bool:
    info = dataset.features.get(name)
    return info is None and not name.startswith("weight_") or info is not None and info.lives == "records"


def _unknown(dataset, batch) -> np.ndarray:
    return np.full_like(batch["user"], dataset.tables["user"].oov)


def _evaluated(trained, batch) -> dict[str, np.ndarray]:
    with trained.recommender.averaged_dense():
        found = trained.recommender.predictions(batch, True, float(trained.step))
    return {task: values.numpy() for task, values in found.items()}


def _served(path: str, asked: list[dict], directory) -> list[dict]:
    with open(directory / "requests", "wb") as file:
        pickle.dump(asked, file)
    files = [str(directory / name) for name in ("requests", "found")]
    subprocess.run([sys.executable, "-I", "-c", PROGRAM, path, *files], check=True, cwd=directory)
    with open(directory / "found", "rb") as file:
        return pickle.load(file)
