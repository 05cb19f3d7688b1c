"""`lazytower bench sweep`: a sweep that is killed on the way, beside a full grid, on planted data.

    lazytower bench sweep

Both search the same space of planted interactions for the best value on valid: the grid trains every
combination to its end, in this process; the sweep has half as many trials, stops bad ones early, and is
killed (SIGKILL, with its trial) at random moments and rerun. Compute is counted in training steps: a step
takes about as long with any values of this space.
"""

import argparse
import csv
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time
from typing import Any, NamedTuple

import yaml
from absl import logging

from configs.errors import UserError
from configs.load import load_config, overridden, parse_as, read_document
from configs.sections.sweep import SweepConfig
from configs.system.processes import module_command
from trainer.bench.page import print_plain_table, write_plain_csv
from trainer.bench.timing import positive
from trainer.children import Children
from trainer.sweep.space import Space

METRIC = "ndcg@10"
_COLUMNS = (
    "search",
    "trials",
    "complete",
    "stopped",
    "steps",
    "best",
    "share of steps",
    "of the best",
    "kills",
)
# 60 combinations; the last key hardly matters.
_SPACE = {
    "tables.*.dim": [4, 8, 16, 32, 64],
    "tables.*.optimizer.learning_rate": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3],
    "schedule.warmup_fraction": [0.0, 0.1],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--rows", type=positive, default=200_000, help="planted rows (default: 200,000)")
    parser.add_argument("--trials", type=positive, default=30, help="of the sweep (default: 30)")
    parser.add_argument("--kills", type=int, default=10, help="of the sweep (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the sweep and the kills (default: 0)")
    parser.add_argument("--steps", type=positive, default=400, help="of a whole run (default: 400)")
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="of all runs"
    )
    parser.add_argument("--output", default="bench_results", metavar="DIR", help="directory of sweep.csv")


def run(args: argparse.Namespace) -> int:
    """Runs both searches, prints a table, writes sweep.csv.

    Raises:
      UserError: a search fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = pathlib.Path(directory)
        (root / "base.yaml").write_text(yaml.safe_dump(_document(root, args.rows, args.steps)))
        grid = _Search(root, "grid", {"sampler": {"kind": "grid"}, "pruner": {"kind": "none"}}, args)
        grid.run_here()
        sweep = _Search(root, "sweep", {"sampler": {"kind": "tpe"}, "trials": args.trials}, args)
        kills = sweep.killed(args.kills, random.Random(args.seed))
        sweep.finish()
        rows = [grid.row(None, 0), sweep.row(grid, kills)]
    print_plain_table([{name: _text(row[name]) for name in _COLUMNS} for row in rows], _COLUMNS)
    write_plain_csv(os.path.join(args.output, "sweep.csv"), rows, _COLUMNS)
    return 0


def _document(root: pathlib.Path, rows: int, steps: int) -> dict[str, Any]:
    """A run on planted data, with an evaluation after each tenth."""
    tenth = max(1, steps // 10)
    return {
        "name": "bench",
        "source": {"kind": "synthetic", "rows": rows, "users": rows // 40, "items": rows // 150},
        "dataset": {"path": str(root / "data"), "split": {"kind": "temporal"}},
        "train": {"batch_size": 1024, "num_steps": 10 * tenth, "steps_per_loop": tenth},
        "checkpoint": {"every_steps": 2 * tenth},
        "evaluate": {
            **{"every_steps": tenth, "k": [10], "max_users": 2000, "weights": "average"},
            "best": {"metric": METRIC},
        },
        "output": {"path": str(root / "unused")},
    }


class _TrainsHere(Children):
    """Saves the start of a process for each trial."""

    def start(self, *arguments: str, log: str | None = None) -> Any:
        """Trains to the end; other sub-commands are processes."""
        if arguments[0] != "train":
            return super().start(*arguments, log=log)
        from trainer.training.run import train

        try:
            train(load_config(arguments[2]))
        except UserError as error:
            logging.warning("%s", error)
            return _Trained(error.exit_code)
        return _Trained(0)


class _Trained(NamedTuple):
    """A training that has ended; see trainer.sweep.job.Process."""

    code: int

    def poll(self) -> int:
        """Its exit code."""
        return self.code

    def terminate(self) -> None:
        """There is nothing to end."""


class _Search:
    """A sweep of the space.

    Args:
      root: where base.yaml is, and where it writes.
      name: of its directory.
      keys: of its document, beside the space.
      args: of the command line.
    """

    def __init__(self, root: pathlib.Path, name: str, keys: dict[str, Any], args: argparse.Namespace):
        self._root, self._name, self._overrides = root, name, args.overrides
        document = {"output": str(root / name), "trials": 1000, "seed": args.seed, "space": _SPACE} | keys
        (root / f"{name}.yaml").write_text(yaml.safe_dump(document))

    def run_here(self) -> None:
        """Runs it to its end with all trials in this process."""
        path = str(self._root / f"{self._name}.yaml")
        from trainer.sweep.job import run_sweep

        sweep = parse_as(SweepConfig, read_document(path), path)
        base = str(self._root / "base.yaml")
        space = Space(overridden(read_document(base), self._overrides), base, sweep)
        run_sweep(space, sweep, path, runner=_TrainsHere)

    def _start(self) -> subprocess.Popen:
        line = module_command("trainer.cli", "sweep", "--config", str(self._root / "base.yaml"))
        line += ["--sweep", str(self._root / f"{self._name}.yaml")]
        line += [f"--set={override}" for override in self._overrides]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL)

    def finish(self) -> None:
        """Runs it to its end."""
        if self._start().wait():
            raise UserError("lazytower sweep failed, see above; correct --set")

    def killed(self, times: int, draw: random.Random) -> int:
        """Runs and kills it at random moments, each after some more of it; the number of kills."""
        for number in range(times):
            before, process = self._ended(), self._start()
            wanted = before + draw.choice([0, 1, 2])
            while process.poll() is None and self._ended() < wanted:
                time.sleep(0.1)
            deadline = time.monotonic() + draw.uniform(2, 15)
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            process.kill()
            if process.wait() != -signal.SIGKILL:
                return number
            logging.info("kill %d: %d trials have ended", number + 1, self._ended())
        return times

    def _ended(self) -> int:
        path = self._root / self._name / "trials.csv"
        return len(_read(path)) if path.exists() else 0

    def row(self, grid: "_Search | None", kills: int) -> dict[str, Any]:
        """Figures for the table; `grid`: what it is compared with."""
        trials = _read(self._root / self._name / "trials.csv")
        numbers = [int(trial["trial"]) for trial in trials]
        if numbers != list(range(len(trials))):
            raise UserError(f"{self._name}: trials {numbers}: one is lost or doubled; this is a bug")
        complete = [float(t[METRIC]) for t in trials if t["state"] == "complete"]
        steps, best = sum(int(trial["steps"]) for trial in trials), max(complete)
        found = {
            "search": self._name,
            "trials": len(trials),
            "complete": len(complete),
            "stopped": sum(trial["state"] == "stopped" for trial in trials),
            "steps": steps,
            "best": best,
            "share of steps": 1.0,
            "of the best": 1.0,
            "kills": kills,
        }
        if grid is not None:
            other = grid.row(None, 0)
            found |= {"share of steps": steps / other["steps"], "of the best": best / other["best"]}
        return found


def _read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def _text(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value
