"""Runs that start from another: ranking models, and day after day along a chain of datasets."""

import json
import pathlib

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.checkpoint_state import newest_state
from tests.support.day_worlds import write_world
from tests.support.ranking_dataset import click_log
from tests.support.two_runs import begun, trained
from tests.trainer.warm_start.test_start_runs import events
from trainer.warm_start.start import checked_source

pytestmark = pytest.mark.any_python


def test_a_ranking_model(tmp_path):
    """Keys, lists and numbers; layers that would read other inputs are refused."""
    first = trained(click_log(str(tmp_path), 400, train={"num_steps": 4, "batch_size": 32}))
    before = newest_state(first.output.path)
    second = {"output": {"path": f"{tmp_path}/next"}, "init": {"from": first.output.path, "weights": "raw"}}
    document = first.model_dump(mode="json") | second
    got = begun(parse_config(document, "test"))
    for name in ("c0", "c1", "c2", "tags"):
        np.testing.assert_array_equal(got[f"tables/{name}"][:, :48], before[f"tables/{name}"][:, :48])
    dense = [name for name in before if name.startswith("dense/")]
    assert len(dense) > 6
    for name in dense:
        np.testing.assert_array_equal(got[name], before[name])
    document["model"] |= {"inputs": [name for name in document["model"]["inputs"] if name != "c2"]}
    del document["tables"]["c2"]
    with pytest.raises(ConfigError, match=r"model.inputs was c0 \(16\), c1 \(16\), c2 .* is c0 \(16\), c1"):
        begun(parse_config(document, "test"))


def test_along_a_chain(tmp_path):
    """A run on a day continues the rows of the run on the day before, by ids, without any catalog."""
    world = write_world(str(tmp_path), days=2)
    configs = [_day_config(tmp_path, number, day) for number, day in enumerate(world.written)]
    trained(configs[0])
    before = newest_state(configs[0].output.path)
    init = {"from": configs[0].output.path, "weights": "raw"}
    config = parse_config(configs[1].model_dump(mode="json") | {"init": init}, "test")
    text = f"step 4 of {configs[0].output.path}, raw weights, rows by id (dataset.base)"
    assert checked_source(config, load_dataset(config.dataset.path)) == text
    got = begun(config)
    ids = [day.ids["user"] for day in world.written]
    kept = [key for key in ids[1].rows_of if key in ids[0].rows_of and key not in world.leave[1]["user"]]
    here, there = ([each.rows_of[key] for key in kept] for each in reversed(ids))
    assert len(kept) > 8 and ids[1].rows > ids[0].rows
    here, there = [*here, ids[1].rows - 1], [*there, ids[0].rows - 1]
    np.testing.assert_array_equal(got["tables/user"][here, :24], before["tables/user"][there, :24])
    trained(config)
    assert events(config, "warm_start")[0]["tables"]["user"]["kept"] == len(here)


def _day_config(root, number: int, day):
    """A run on a day of a chain."""
    features = [{"name": "country", "of": "user", "kind": "categorical"}]
    features += [{"name": "price", "of": "item", "kind": "numeric"}]
    features += [{"name": "tags", "of": "item", "kind": "list", "separator": "|", "max_length": 3}]
    source = {"kind": "delimited", "paths": ["none.csv"], "features": features}
    path = pathlib.Path(day.dataset.path, "dataset.json")
    dataset = {"path": day.dataset.path, "split": {"kind": "random"}, "history_length": 3}
    dataset |= {"history_of": "earlier"} | ({"base": day.dataset.base.path} if day.dataset.base else {})
    config = parse_config(
        {
            "source": source,
            "dataset": dataset,
            "model": {"user_tower": {"inputs": ["user"]}, "normalize": False, "item_bias": False},
            "tables": {name: {"dim": 8} for name in ("user", "item")},
            "train": {"batch_size": 8, "num_steps": 4, "steps_per_loop": 2},
            "output": {"path": f"{root}/run{number}"},
        },
        "test",
    )
    manifest = json.loads(path.read_text()) | {
        "dataset": config.dataset.model_dump(mode="json"),
        "source": config.source.model_dump(mode="json"),
    }
    path.write_text(json.dumps(manifest))
    return config
