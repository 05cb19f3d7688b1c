"""A manifest without a dataset, for forecasts: tables of any size, no rows."""

from configs.manifest import Dataset


def bare_dataset(rows: dict[str, int]) -> Dataset:
    """A manifest whose tables have `rows[name]` rows under hashed ids."""
    empty = {"rows": 0, "files": []}
    split = {**empty, "min_timestamp": None, "max_timestamp": None, "positives": 0}
    return Dataset(
        fingerprint="",
        source_fingerprint="",
        history_length=0,
        has_weight=False,
        splits=dict.fromkeys(("train", "valid", "test"), split),
        tables={name: {"ids": "hash", "rows": n, "oov": None, "keys": n} for name, n in rows.items()},
        features={},
        users=empty,
        items=empty,
        source_rows=0,
        rejected={},
        source={"roles": {name: name if name in rows else None for name in ("user", "item")}},
        dataset={},
    )
