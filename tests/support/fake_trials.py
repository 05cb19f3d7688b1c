"""Trials that write evaluations of a known function in place of training; they may be killed at any event."""

import json
import math
import pathlib
from unittest import mock

from configs.load import load_config, parse_as
from configs.schema import RunConfig
from configs.sections.search.sweep import SweepConfig
from tests.support.fake_day import FakeCommands
from trainer.checkpoints.best import BestRecord, Evaluated, read_best, write_best
from trainer.sweep import job
from trainer.sweep.results import SweepResult
from trainer.sweep.space import Space

STEPS, EVERY = 40, 4


class FakeTrials(FakeCommands):
    """See trainer.daily.children.Children.

    Args:
      codes: exit codes by trial, of those that do not end well, in turn; a negative one is a signal.
      diverged: trials whose loss is not finite.

    Attributes:
      done: sub-commands that ran.
      evaluated: (trial, step) of each evaluation, in order.
    """

    def __init__(self, codes: dict[int, list[int]] | None = None, diverged: tuple[int, ...] = ()):
        super().__init__({})
        self.codes, self.diverged, self.evaluated, self.most_at_once = codes or {}, diverged, [], 0
        self._alive: set[int] = set()

    def _prepare(self, config: RunConfig, options: tuple[str, ...]) -> None:
        pathlib.Path(config.source.paths[0]).write_text("1")
        super()._prepare(config, options)
        path = pathlib.Path(config.dataset.path, "dataset.json")
        table = {"ids": "vocab", "rows": 3, "oov": 2, "keys": 2}
        sections = {
            "dataset": config.dataset.model_dump(mode="json"),
            "tables": {"user": table, "item": table},
        }
        path.write_text(json.dumps(json.loads(path.read_text()) | sections))

    def value(self, config: RunConfig, part: float) -> float:
        """What a trial reaches after a part of its run."""
        return quality(config) * part

    def check(self) -> None:
        """No signal has come."""

    def start(self, command: str, *arguments: str, log: str | None = None) -> "FakeTrial":
        assert command == "train" and pathlib.Path(log).parent.exists()
        self.event()
        config = load_config(arguments[1])
        self.done.append((command, config.name))
        return FakeTrial(self, config)

    def _evaluate(self, config: RunConfig, options: tuple[str, ...]) -> None:
        assert options == ("--split", "test")
        record = read_best(f"{config.output.path}/checkpoints")
        line = {"scorer": "model", "weights": "average", "protocol": "full", "ndcg@10": 0.125, "users": 3}
        document = {"step": record.best.step, "results": [line, line | {"scorer": "popularity"}]}
        pathlib.Path(config.output.path, "evaluate-test.json").write_text(json.dumps(document))


class FakeTrial:
    """A process that trains EVERY steps, evaluates and saves whenever it is looked at."""

    def __init__(self, trials: FakeTrials, config: RunConfig):
        self._trials, self._config, self._is_asked = trials, config, False
        self._number = int(config.name.rpartition("-")[2])
        self._directory = f"{config.output.path}/checkpoints"
        self._note("start", num_steps=STEPS)
        trials._alive.add(self._number)
        trials.most_at_once = max(trials.most_at_once, len(trials._alive))

    def _note(self, event: str, step: int = 0, **facts) -> None:
        line = {"step": step, "time": 0.0, "kind": "run", "event": event, **facts}
        with open(f"{self._config.output.path}/metrics.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")

    def terminate(self) -> None:
        """Asks it to end."""
        self._is_asked = True

    def poll(self) -> int | None:
        """A part of the run."""
        self._trials.event()
        record = read_best(self._directory) or BestRecord(metric="ndcg@10", protocol="full")
        step = record.evaluations[-1].step if record.evaluations else 0
        if self._is_asked:
            return self._ended(75)
        if step >= STEPS // 2 and self._trials.codes.get(self._number):
            return self._ended(self._trials.codes[self._number].pop(0))
        if self._number in self._trials.diverged:
            self._note("skip", step)
            return self._ended(2)
        if step == STEPS:
            return self._ended(0)
        step += EVERY
        value = self._trials.value(self._config, step / STEPS)
        write_best(self._directory, record.having(Evaluated(step=step, value=value)))
        self._trials.evaluated.append((self._number, step))
        self._note("checkpoint", step)
        self._trials.event()
        return None

    def _ended(self, code: int) -> int:
        self._trials._alive.discard(self._number)
        return code


def quality(config: RunConfig) -> float:
    """What a trial reaches: best at width 32 and a rate of 0.01."""
    table = config.table("item")
    return 1 / (1 + abs(math.log2(table.dim / 32)) + abs(math.log10(table.optimizer.learning_rate / 0.01)))


def sweep_of(root: pathlib.Path, **keys) -> SweepConfig:
    """A sweep in a directory."""
    space = {
        "tables.*.dim": [8, 16, 32, 64],
        "tables.*.optimizer.learning_rate": {"low": 1e-4, "high": 1.0, "log": True},
    }
    document = {"output": str(root / "out"), "trials": 8, "seed": 3, "space": space}
    document |= {"sampler": {"startup_trials": 4}} | keys
    return parse_as(SweepConfig, document, "sweep.yaml")


def base_document(root: pathlib.Path, **sections) -> dict:
    """The config that is varied."""
    document = {
        "name": "shop",
        "source": {
            "kind": "delimited",
            "paths": [str(root / "1.csv")],
            "roles": {"user": "user", "item": "item"},
        },
        "dataset": {"path": str(root / "data")},
        "tables": {"user": {"init_stddev": 0.1}},
        "train": {"batch_size": 8, "num_steps": STEPS},
        "evaluate": {"every_steps": EVERY, "best": {"metric": "ndcg@10"}},
        "output": {"path": str(root / "unused")},
    }
    for name, keys in sections.items():
        document[name] = document.get(name, {}) | keys
    return document


def swept(
    root: pathlib.Path,
    trials: FakeTrials,
    jobs: int = 1,
    sweep: dict | None = None,
    is_submitted: bool = False,
    **base,
) -> SweepResult:
    """Runs a sweep."""
    document = sweep_of(root, **(sweep or {}))
    space = Space(base_document(root, **base), "base.yaml", document)
    with mock.patch.object(job, "_POLL_SECONDS", {False: 0.0}):
        return job.run_sweep(space, document, "sweep.yaml", jobs, is_submitted, trials)
