"""What is compiled ahead of time: runs on 25 million users, and on MLPerf's tables, without datasets."""

import dataclasses
import pathlib
from typing import Literal
from unittest import mock

import numpy as np
import yaml

from configs.dataset_parts import CatalogInfo, SplitInfo, TableInfo
from configs.load import parse_config
from configs.manifest import Dataset
from configs.rules import tpu as tpu_rules
from configs.schema import RunConfig
from configs.system.tpu import tpu_slice

USERS, ITEMS = 25_000_000, 1_000_000
NUM_STEPS = 10_000
MLPERF = pathlib.Path(__file__).parents[2] / "configs" / "criteo_mlperf_v5p_8.yaml"
MODELS = {
    "two_tower": {
        "kind": "two_tower",
        "user_tower": {"inputs": ["user"], "layers": [64, 32]},
        "item_tower": {"inputs": ["item"], "layers": [64, 32]},
        "normalize": True,
        "loss": {"temperature": 0.05},
    },
    "dot_bias": {"kind": "dot_bias", "negatives": 4},
}
# Of each generation, in libtpu's names, with eight replicas: chips of v4, v5p and v6e, cores of v2 and v3.
EIGHT = {"v2": "v2:2x2", "v3": "v3:2x2", "v4": "v4:2x2x1", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}


@dataclasses.dataclass(frozen=True)
class Case:
    """One program and what becomes of it."""

    slice: str
    """Whose step it is; of programs without tables only its replicas count."""
    model: str
    share: int
    """Rows of a batch on each replica."""
    topologies: tuple[str, ...]
    """What it is compiled for, in libtpu's names."""
    dim: int = 64
    tables: bool = True
    """With the tables on SparseCores; otherwise their rows are arguments and the gradients results."""
    expect: Literal["fits", "too large", "too many ids"] = "fits"
    """fits: in the bytes that the forecast says, and so many for buffers."""
    default_layout: bool = False
    """Also with tables in XLA's default layout, to see what that would cost."""

    @property
    def name(self) -> str:
        """File name."""
        kind = "tables" if self.tables else "dense"
        return f"{kind}-{self.slice}-{self.model}-{self.share}x{self.dim}"


DENSE = [
    Case(slice_, model, 8192 // replicas, tuple(EIGHT.values()), tables=False)
    for model in MODELS
    for slice_, replicas in (("v6e-1", 1), ("v3-8", 8))
]
TABLES = [
    Case("v6e-4", "two_tower", 2048, ("v6e:2x2",), default_layout=True),
    Case("v5p-8", "two_tower", 2048, ("v5p:2x2x1",), default_layout=True),
    Case("v6e-4", "dot_bias", 1024, ("v6e:2x2",)),
    Case("v5p-8", "dot_bias", 1024, ("v5p:2x2x1",)),
    # Rows of 33 values are padded.
    Case("v6e-4", "two_tower", 2048, ("v6e:2x2",), dim=33),
    Case("v5p-8", "two_tower", 2048, ("v5p:2x2x1",), dim=33),
    # One chip.
    Case("v6e-1", "two_tower", 1024, ("v6e:1x1",), default_layout=True),
    Case("v6e-1", "two_tower", 1024, ("v6e:1x1",), dim=128, expect="too large"),
    # As many ids as configs.rules.tpu allows, and more.
    Case("v6e-4", "two_tower", 8192, ("v6e:2x2",), dim=32),
    Case("v6e-4", "two_tower", 8192, ("v6e:2x2",), dim=128),
    Case("v6e-4", "two_tower", 16384, ("v6e:2x2",), dim=32, expect="too many ids"),
    Case("v6e-4", "two_tower", 16384, ("v6e:2x2",), dim=128, expect="too many ids"),
    Case("v5p-8", "two_tower", 16384, ("v5p:2x2x1",), dim=32),
    Case("v5p-8", "two_tower", 16384, ("v5p:2x2x1",), dim=128),
]
RANKING = [
    # 26 tables, half of them on the TensorCores: the config itself, and rows that four chips of v6e hold.
    Case("v5p-8", "ranking", 16384, ("v5p:2x2x1",), dim=128),
    Case("v6e-4", "ranking", 8192, ("v6e:2x2",), dim=32),
]
CASES = DENSE + TABLES + RANKING


def run_config(case: Case) -> RunConfig:
    """The run of a case."""
    document = _mlperf() if case.model == "ranking" else _retrieval(case)
    for name in document["tables"]:
        document["tables"][name] = document["tables"][name] | {"dim": case.dim}
    document["train"] = {"batch_size": case.share * tpu_slice(case.slice).replicas, "num_steps": NUM_STEPS}
    document["device"] = {"kind": "tpu", "slice": case.slice}
    # The compiler must say what is too much.
    with mock.patch.object(tpu_rules, "MAX_IDS_PER_SPARSE_CORE", 1 << 30):
        return parse_config(document, "aot")


def _mlperf() -> dict:
    """DLRM-DCNv2 with Adagrad, no averages."""
    return yaml.safe_load(MLPERF.read_text(encoding="utf-8"))


def _retrieval(case: Case) -> dict:
    """Lazy Adam on hashed users and items, Adam on the towers, averages, logQ and masked hits."""
    return {
        "name": "aot",
        "source": {"kind": "synthetic", "rows": 2 * USERS, "users": USERS, "items": ITEMS},
        "dataset": {
            "path": "none",
            "user_ids": {"kind": "hash", "rows": USERS},
            "item_ids": {"kind": "hash", "rows": ITEMS},
            "split": {"kind": "temporal"},
        },
        "model": MODELS[case.model],
        "tables": {name: {"optimizer": {"kind": "lazy_adam"}} for name in ("user", "item")},
        "polyak": {"decay": 0.999, "start_fraction": 0},
        "output": {"path": "none"},
    }


def dataset_of(config: RunConfig) -> Dataset:
    """The manifest of a dataset for the config, without files."""
    split = SplitInfo(rows=USERS, files=[], min_timestamp=None, max_timestamp=None, positives=USERS)
    rows = {name: config.ids_of(name).known_rows for name in config.tables}
    return Dataset(
        fingerprint="",
        source_fingerprint="",
        history_length=0,
        has_weight=False,
        splits={name: split for name in ("train", "valid", "test")},
        tables={name: TableInfo(ids="hash", rows=n, oov=None, keys=n) for name, n in rows.items()},
        features={},
        users=CatalogInfo(rows=0, files=[]),
        items=CatalogInfo(rows=0, files=[]),
        source_rows=2 * USERS,
        rejected={},
        source={"roles": {name: name if name in rows else None for name in ("user", "item")}},
        dataset={},
    )


def item_counts(config: RunConfig) -> np.ndarray:
    """Train rows of each item, int64 [items]; empty if there are none."""
    return np.ones(config.ids_of("item").known_rows if "item" in config.tables else 0, np.int64)
