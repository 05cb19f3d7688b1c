"""Trained and exported ranking runs, created once for all test processes, and their rows as requests."""

import functools
import os

from configs.load import parse_config
from configs.schema import RunConfig
from tests.support.ranking_dataset import KEYS, click_log, click_rows, ranking_document
from tests.support.replays import export_here
from tests.support.shared import shared

ROWS = 400
_TASKS = [{"name": "click"}, {"name": "buy", "label": "buy"}]
_KINDS = {
    # Of the context alone, as Criteo's rows: dots of keys and numbers.
    "keys": {
        "model": {"interaction": {"kind": "dot"}, "top": [8]},
        "tables": dict.fromkeys(KEYS, {"dim": 4}),
    },
    # Users, items and histories; two tasks, the second where the first one's label holds; thinned negatives.
    "owners": {
        "owners": True,
        "model": {
            "inputs": ["user", "item", "history", *KEYS, "tags", "n0", "n1"],
            "tasks": [_TASKS[0], _TASKS[1] | {"where": "label"}],
            "sharing": {"kind": "mmoe", "experts": 2, "tower": [4]},
            "top": [8],
        },
        "dataset": {"keep_negatives": 0.25},
    },
    # A click and the click that converts; then a number.
    "esmm": {"model": {"tasks": _TASKS, "sharing": {"kind": "esmm"}, "top": [8]}},
    "mixed": {"model": {"tasks": [_TASKS[1] | {"loss": "mse"}, _TASKS[0]], "top": [8], "bottom": [8]}},
}


@functools.cache
def ranking_run(kind: str) -> RunConfig:
    """A trained run, which nobody may change."""
    from trainer.training.run import train

    sections = {"train": {"num_steps": 4, "batch_size": 32, "steps_per_loop": 2}, **_KINDS[kind]}
    sections["checkpoint"] = {"every_steps": 4}
    directory = shared(f"ranking-{kind}", lambda directory: train(click_log(directory, ROWS, **sections)))
    return parse_config(ranking_document(directory, **sections), "clicks")


@functools.cache
def ranking_export(kind: str) -> str:
    """The directory of its exported version; a fresh process verifies that of `owners`, which has most."""
    from trainer.serving.export import export

    def make(directory):
        version = (export if kind == "owners" else export_here)(ranking_run(kind))
        os.symlink(version, f"{directory}/version")

    return os.readlink(os.path.join(shared(f"ranking-{kind}-export", make), "version"))


def held_out_records(owners: bool) -> list[dict]:
    """Records of the rows of the test split, in their order."""
    records = click_rows(ROWS, owners)[ROWS * 9 // 10 :]
    return [record for part in range(3) for record in records[part::3]]  # as they are spread over files


def as_request(record: dict) -> dict:
    """What a client that knows the raw row sends: a line for `lazytower predict`."""
    found = {name: f"{name}:{record[name]}" for name in KEYS}
    found["tags"] = [f"tags:{tag}" for tag in record["tags"]]
    found |= {name: record[name] for name in ("n0", "n1")}
    if "user" in record:
        found |= {name: f"{name}{record[name]}" for name in ("user", "item")}
        found["history"] = [f"item{item}" for item in record["history"]] or ["no such item"]
    return found
