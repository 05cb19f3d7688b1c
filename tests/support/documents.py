"""The smallest run as a plain document, for tests that change one thing in it."""

import copy

_DOCUMENT = {
    "source": {"kind": "synthetic", "rows": 100, "users": 10, "items": 20},
    "dataset": {"path": "data", "split": {"kind": "temporal"}},
    "train": {"num_steps": 10},
    "output": {"path": "run"},
}


def document(**sections) -> dict:
    """A valid document with `sections` in place of, or beside, its own."""
    return {**copy.deepcopy(_DOCUMENT), **sections}


def delimited(**keys) -> dict:
    """A delimited source."""
    return {"kind": "delimited", "paths": ["a.csv"], **keys}


def feature(name: str, of: str = "user", kind: str = "categorical") -> dict:
    """A side feature of a file source."""
    return {"name": name, "of": of, "kind": kind}


def two_tower(user=("user",), item=("item",), **keys) -> dict:
    """A two-tower model with these inputs."""
    return {
        "kind": "two_tower",
        "user_tower": {"inputs": list(user)},
        "item_tower": {"inputs": list(item)},
        **keys,
    }
