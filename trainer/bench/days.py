"""`lazytower bench days`: MovieLens 100K day by day, warm starts beside training on all rows from nothing.

    lazytower bench days --ml100k data/ml-100k/u.data

The ratings are cut into slices of equal time. For each slice but the first, a model is trained on all
earlier slices and evaluated on this one, in two ways: `warm` stands on the dataset of the slice before
(dataset.base) and starts from its model (init); `all rows` prepares and trains all earlier slices from
nothing, for the epochs of `configs/ml100k.yaml`. Both see the first hundredth of the evaluated slice in
train, because a dataset needs some train rows, and rank the same targets of the same users. The first
model of the chain has nothing to start from, so it is that of all rows. With several seeds, each has a
chain of its own, and `ratio` is the mean of their ratios, `error` its standard error.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile
from typing import Any

import numpy as np
from absl import logging

from configs.errors import UserError
from configs.system.processes import module_command
from trainer.bench.results.page import print_plain_table, write_plain_csv
from trainer.bench.timing import positive

METRIC = "ndcg@10"
_COLUMNS = (
    *("slice", "rows", "users", "popularity", "all rows", "warm", "ratio", "error"),
    *("steps", "warm steps", "share"),
)
_FIGURES = ("all rows", "warm", "ratio")  # those that depend on the seed
_SEEN = 0.01  # of the evaluated slice


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--ml100k", required=True, metavar="FILE", help="u.data of MovieLens 100K")
    parser.add_argument("--slices", type=positive, default=7, help="slices of equal time (default: 7)")
    parser.add_argument(
        "--share",
        type=float,
        default=0.2,
        help="of the other way's steps for a warm run over its rows (default: 0.2)",
    )
    parser.add_argument(
        "--warm_epochs", type=float, help="epochs of a warm run over its rows, instead of --share"
    )
    parser.add_argument(
        "--warm_set", action="append", default=[], metavar="KEY=VALUE", help="of the warm runs alone"
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="of both runs"
    )
    parser.add_argument(
        "--seeds",
        type=positive,
        default=1,
        help="seeds from train.seed on; figures are their means (default: 1)",
    )
    parser.add_argument("--output", default="bench_results", metavar="DIR", help="directory of days.csv")


def run(args: argparse.Namespace) -> int:
    """Runs all slices, prints a table, writes days.csv.

    Raises:
      UserError: the file cannot be read, a command fails, or both ways have not ranked the same targets.
    """
    from configs.load import load_config

    if not os.path.exists(args.ml100k):
        raise UserError(f"--ml100k: {args.ml100k} does not exist; set it to u.data of MovieLens 100K")
    slices = sliced(np.loadtxt(args.ml100k, dtype=np.int64), args.slices)
    with tempfile.TemporaryDirectory() as directory:
        first = load_config(_config_file(), args.overrides).train.seed
        seeds = range(first, first + args.seeds)
        rows = _means([_measured(slices, args, directory, seed) for seed in seeds])
    print_plain_table([{name: _text(value) for name, value in row.items()} for row in rows], _COLUMNS)
    write_plain_csv(os.path.join(args.output, "days.csv"), rows, _COLUMNS)
    return 0


def sliced(ratings: np.ndarray, number: int) -> list[np.ndarray]:
    """The ratings in slices of equal time, each ordered by time.

    Args:
      ratings: int64 [n, 4] of user, item, rating, time.
      number: of slices.
    """
    ratings = ratings[np.argsort(ratings[:, 3], kind="stable")]
    times = ratings[:, 3]
    bounds = times[0] + (times[-1] + 1 - times[0]) * np.arange(1, number) // number
    return np.split(ratings, np.searchsorted(times, bounds))


def _measured(
    slices: list[np.ndarray], args: argparse.Namespace, directory: str, seed: int
) -> list[dict[str, Any]]:
    rows, before = [], None
    for day in range(1, len(slices)):
        whole = _Way(directory, f"all-{day}", args.overrides, seed)
        lines = whole.run(slices[:day], slices[day], ())
        steps, warm, more = lines["step"], lines, lines["step"]
        if before is not None:
            chain = _Way(directory, f"warm-{day}", args.overrides, seed)
            options = (
                f"dataset.base={before.dataset}",
                f"init.from={before.output}",
                *_length(args, steps),
                *args.warm_set,
            )
            warm = chain.run([], slices[day], options)
            more, before = warm["step"], chain
        else:
            before = whole
        ours, theirs, popular = _model(warm), _model(lines), lines["results"][-1]
        for name in ("users", "targets"):
            if ours[name] != theirs[name]:
                raise UserError(f"slice {day + 1}: the ways ranked {theirs[name]} and {ours[name]} {name}")
        rows.append(
            {
                "slice": day + 1,
                "rows": sum(map(len, slices[:day])),
                "users": theirs["users"],
                "popularity": popular[METRIC],
                "all rows": theirs[METRIC],
                "warm": ours[METRIC],
                "ratio": ours[METRIC] / theirs[METRIC],
                "steps": steps,
                "warm steps": more,
                "share": more / steps,
            }
        )
        logging.info("seed %d: %s", seed, rows[-1])
    return rows


def _means(seeds: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of several seeds, slice by slice, as one: means, and the standard error of that of ratios."""
    found = []
    for rows in zip(*seeds, strict=True):
        row = rows[0] | {name: float(np.mean([other[name] for other in rows])) for name in _FIGURES}
        ratios = [other["ratio"] for other in rows]
        error = float(np.std(ratios, ddof=1) / len(rows) ** 0.5) if len(rows) > 1 else None
        found.append(row | {"error": error})
    return found


def _length(args: argparse.Namespace, steps: int) -> tuple[str, ...]:
    """Overrides for the length of a warm run; `steps` are those of the run from nothing."""
    if args.warm_epochs is not None:
        return (f"train.num_epochs={args.warm_epochs}",)
    return ("train.num_epochs=null", f"train.num_steps={max(1, int(steps * args.share))}")


def _model(lines: dict[str, Any]) -> dict[str, Any]:
    """The line of the served weights."""
    found: dict[str, Any] = next(line for line in lines["results"] if line["scorer"] == "model")
    return found


class _Way:
    """A dataset and a run on it.

    Args:
      directory: where both are.
      name: of their directories.
      overrides: further ones.
      seed: of the run; all seeds share the dataset.
    """

    def __init__(self, directory: str, name: str, overrides: list[str], seed: int):
        self._source = f"{directory}/{name}.csv"
        self.dataset, self.output = f"{directory}/{name}-data", f"{directory}/{name}-run{seed}"
        self._overrides = [
            f"source.paths=[{self._source}]",
            "source.delimiter=','",
            "source.header=true",
            "source.columns=[]",
            "source.roles.split=split",
            "dataset.split.kind=given",
            "dataset.history_length=0",
            "evaluate.every_steps=0",
            f"evaluate.k=[{METRIC.partition('@')[2]}]",
            f"dataset.path={self.dataset}",
            f"output.path={self.output}",
            *overrides,
            f"train.seed={seed}",
        ]

    def run(self, train: list[np.ndarray], test: np.ndarray, options: tuple[str, ...]) -> dict[str, Any]:
        """Prepares, trains and evaluates; returns the content of evaluate-test.json."""
        seen = max(1, round(len(test) * _SEEN))
        parts = [(rows, "train") for rows in (*train, test[:seen])] + [(test[seen:], "test")]
        lines = [f"{u},{i},{r},{t},{split}" for rows, split in parts for u, i, r, t in rows.tolist()]
        pathlib.Path(self._source).write_text("\n".join(["user,item,rating,timestamp,split", *lines, ""]))
        if not os.path.exists(self.dataset):
            self._command("prepare", options)
        for command in ("train", "evaluate"):
            self._command(command, options)
        found: dict[str, Any] = json.loads(pathlib.Path(self.output, "evaluate-test.json").read_bytes())
        return found

    def _command(self, command: str, options: tuple[str, ...]) -> None:
        line = module_command("trainer.cli", command, "--config", _config_file())
        line += [f"--set={override}" for override in (*self._overrides, *options)]
        if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError(f"lazytower {command} failed, see above; correct --set")


def _config_file() -> str:
    import configs

    return str(pathlib.Path(configs.__path__[0]) / "ml100k.yaml")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
