"""Commands that write what the real ones write, as far as the daily job reads it; they may be killed."""

import hashlib
import json
import os
import pathlib

from configs.load import load_config, parse_config
from configs.manifest import load_dataset
from configs.schema import RunConfig
from configs.sections.training import DayConfig
from trainer.serving.versions import versions

DAY = 86_400 * 10**9
START = 19_700 * DAY  # 2023-12-09


class Killed(BaseException):
    """In place of SIGKILL: no handler of the program's may see it."""


class FakeCommands:
    """See trainer.daily.children.Children.

    Args:
      figures: by day, ndcg@10 of its model and of the served one on its rows.

    Attributes:
      done: sub-commands that ran, with the day's name in the config.
      kill_at: number of the event at which the process dies: one before and one after each command.
    """

    def __init__(self, figures: dict[str, tuple[float, float]]):
        self._figures, self.done, self.kill_at, self._events = figures, [], None, 0

    def __call__(self, lock) -> "FakeCommands":
        self._events = 0
        return self

    def __enter__(self) -> "FakeCommands":
        return self

    def __exit__(self, *unused) -> None:
        pass

    def event(self) -> None:
        """Something happened; the process may die now."""
        self._events += 1
        if self._events == self.kill_at:
            raise Killed

    def run(self, command: str, *arguments: str) -> None:
        assert arguments[0] == "--config"
        config = load_config(arguments[1])
        self.event()
        self.done.append((command, config.name))
        getattr(self, f"_{command}")(config, arguments[2:])
        self.event()

    def _prepare(self, config: RunConfig, _) -> None:
        path = pathlib.Path(config.dataset.path)
        if (path / "dataset.json").exists():
            return
        base, depth = None, 0
        if config.dataset.base:
            below = load_dataset(config.dataset.base)
            depth = 1 + (below.base.depth if below.base else 0)
            base = {"path": config.dataset.base, "fingerprint": below.fingerprint, "depth": depth}
        number = int(pathlib.Path(config.source.paths[0]).read_text())
        split = {"files": [], "positives": 0, "min_timestamp": None, "max_timestamp": None}
        splits = {
            name: split | {"rows": rows, "max_timestamp": START + number * DAY + hours * DAY // 24}
            for name, rows, hours in (("train", 80, 16), ("valid", 10, 20), ("test", 10, 23))
        }
        nothing = {"rows": 0, "files": []}
        document = {
            "fingerprint": hashlib.sha256(f"{number} {base}".encode()).hexdigest(),
            "source_fingerprint": "",
            "base": base,
            "history_length": 0,
            "has_weight": False,
            "splits": splits,
            "tables": {},
            "features": {},
            "users": nothing,
            "items": nothing,
            "source_rows": 100,
            "rejected": {},
            "source": {},
            "dataset": {},
        }
        path.mkdir(parents=True, exist_ok=True)
        (path / "dataset.json").write_text(json.dumps(document))

    def _train(self, config: RunConfig, _) -> None:
        path = pathlib.Path(config.output.path)
        path.mkdir(exist_ok=True)
        facts = [config.dataset.path, config.init and config.init.from_, config.train.window_days]
        (path / "trained.json").write_text(json.dumps(facts))

    def _evaluate(self, config: RunConfig, options: tuple[str, ...]) -> None:
        assert options[:2] == ("--split", "test")
        start = "--start" in options
        value = self._figures.get(config.name.removeprefix("shop-"), (0.2, 0.2))[start]
        line = {"scorer": "model", "weights": "raw" if start else "average", "protocol": "full"}
        popular = {"scorer": "popularity", "weights": "average", "ndcg@10": 0.9}
        name = f"evaluate-test{'-start' if start else ''}.json"
        lines = [line | {"ndcg@10": value}, popular]
        pathlib.Path(config.output.path, name).write_text(json.dumps({"step": 1, "results": lines}))

    def _export(self, config: RunConfig, _) -> None:
        export = pathlib.Path(config.export_path)
        version = export / str(max(versions(config.export_path), default=0) + 1)
        (version / "assets.extra").mkdir(parents=True)
        facts = {
            "name": config.name,
            "dataset_fingerprint": load_dataset(config.dataset.path).fingerprint,
        }
        (version / "assets.extra" / "lazytower.json").write_text(json.dumps(facts))
        (version / "saved_model.pb").write_bytes(b"")


def daily_config(root: pathlib.Path, **sections) -> RunConfig:
    """A daily job in a directory."""
    document = {
        "name": "shop",
        "source": {
            "kind": "delimited",
            "paths": ["unused"],
            "roles": {"user": "user", "item": "item", "timestamp": "time"},
        },
        "dataset": {"path": str(root / "datasets" / "shop")},
        "train": {"batch_size": 8, "num_epochs": 1},
        "day": DayConfig(keep=2).model_dump(),
        "output": {"path": str(root / "run")},
    }
    for name, keys in sections.items():
        document[name] = document[name] | keys
    return parse_config(document, "test")


def day_file(root: pathlib.Path, number: int) -> str:
    """The source file of a day: just its number."""
    path = root / f"{number}.csv"
    path.write_text(str(number))
    return str(path)


def tree(root: pathlib.Path) -> dict[str, bytes]:
    """All files under a directory, without locks."""
    return {
        os.path.relpath(path, root): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
