"""Chains of datasets, a day each, and what they hold by raw keys."""

import json

import numpy as np

from configs.chain import LEFT, load_chain, translated_to_top
from configs.manifest import load_dataset
from tests.support.prepared import read_rows, run

DAY = 86_400
SMALL = {"user_shards": 3, "key_shards": 2}


def prepare_days(directory, days: list[list[dict]], source: dict, dataset: dict, sizes=SMALL) -> list:
    """Prepares each day's rows on the days before; returns the datasets, oldest first.

    Args:
      days: rows of each day, as JSON objects.
      source: further keys of the section; roles and features among them.
      dataset: further keys of the section.
    """
    found = []
    for number, rows in enumerate(days):
        path = directory / f"day{number}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        section = dataset | {"path": str(directory / f"data{number}")}
        if found:
            section["base"] = found[-1].path
        run({"kind": "jsonl", "paths": [str(path)]} | source, section, **sizes)
        found.append(load_dataset(section["path"]))
    return found


def keys_of(datasets: list, owner: str) -> dict[int, str]:
    """Key of each catalog id of the newest dataset, of the whole chain."""
    found: dict[int, str] = {}
    chain = load_chain(datasets[-1])
    for level, dataset in reversed(list(enumerate(chain))):
        catalog = dataset.users if owner == "user" else dataset.items
        for row in read_rows(dataset, catalog.files):
            own = int(translated_to_top(np.array([row["id"]]), owner, chain[:level])[0])
            if own != LEFT:
                found[own] = row["key"].decode()
    return found
