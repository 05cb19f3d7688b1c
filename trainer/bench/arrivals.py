"""`lazytower bench arrivals`: planted days with users who arrive and leave; three kinds of user tables.

    lazytower bench arrivals

Every day the same number of users is active, and a part of them leaves for good, replaced by new ones. Each
day is prepared on the day before (dataset.base) and trained from its model (init) in three ways: `unbounded`,
where every user has a row of the table and keeps it; `bounded`, with `user_ids.max_rows` and `expire_days`,
where new users take the rows of those that were not seen for longest; and `hashed`, with as many rows as
`bounded` has. The figure is that of the newest tenth of each day's rows, which no model was trained on.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile
from typing import Any

import numpy as np
from absl import logging

from configs.errors import UserError
from configs.system.processes import module_command
from trainer.bench.results.page import print_plain_table, write_plain_csv
from trainer.bench.timing import positive

_METRIC = "ndcg@10"
_COLUMNS = ("ids", "rows of the last day", "users ever", "popularity", _METRIC, "last third", "ratio")
_DAY = 86_400
_START = 1_764_028_800  # a midnight, UTC
_GROUPS = 40  # of items; a user likes two of them
_EXPIRE_DAYS = 2
_CONFIG = """
name: arrivals
source:
  kind: delimited
  paths: [day-1.csv]
  roles: {user: user, item: item, timestamp: time}
dataset: {path: data, split: {kind: temporal, valid_fraction: 0.0, test_fraction: 0.1}, history_length: 0}
model: {kind: two_tower, user_tower: {inputs: [user]}}
tables: {user: {dim: 64}}
train: {batch_size: 256, num_epochs: 3}
output: {path: run}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--days", type=positive, default=30, help="days in a row (default: 30)")
    parser.add_argument("--users", type=positive, default=2_000, help="active on a day (default: 2000)")
    parser.add_argument(
        "--leave",
        type=float,
        default=0.1,
        help="part of the active users that leaves each day (default: 0.1)",
    )
    parser.add_argument("--items", type=positive, default=2_000, help="items (default: 2000)")
    parser.add_argument("--rows", type=positive, default=20_000, help="rows of a day (default: 20000)")
    parser.add_argument(
        "--max_rows",
        type=positive,
        default=3_000,
        help="of the bounded and hashed user tables (default: 3000)",
    )
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="of all runs"
    )
    parser.add_argument("--output", default="bench_results", metavar="DIR", help="directory of arrivals.csv")


def run(args: argparse.Namespace) -> int:
    """Runs all days three ways, prints a table, writes arrivals.csv with a line per day and way.

    Raises:
      UserError: a command fails.
    """
    ways = {
        "unbounded": "{kind: vocab}",
        "bounded": f"{{kind: vocab, max_rows: {args.max_rows}, expire_days: {_EXPIRE_DAYS}}}",
        "hashed": f"{{kind: hash, rows: {args.max_rows}}}",
    }
    figures = []
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "arrivals.yaml").write_text(_CONFIG)
        for day, rows in enumerate(planted_days(args), 1):
            source = pathlib.Path(directory, f"day-{day}.csv")
            np.savetxt(source, rows, fmt="u%d,i%d,%d", header="user,item,time", comments="", encoding="utf-8")
        for way, user_ids in ways.items():
            overrides = [f"dataset.user_ids={user_ids}", *args.overrides]
            for day in range(1, args.days + 1):
                ever = round(args.users * args.leave) * (day - 1) + args.users
                line = _day(directory, way, overrides, day)
                figures.append({"ids": way, "day": day, "users ever": ever, **line})
                logging.info("%s", figures[-1])
    write_plain_csv(str(pathlib.Path(args.output, "arrivals.csv")), figures)
    print_plain_table(_summary(figures), _COLUMNS)
    return 0


def planted_days(args: argparse.Namespace) -> list[np.ndarray]:
    """Rows of each day in the order of their time: [rows, 3] of user, item, seconds since 1970, all int64.

    An item is in one group, and the popularity of the items of a group falls as 1 / (rank + 5). A user likes
    one group in four of five of her rows and a second one in the others.
    """
    random = np.random.default_rng(0)
    per_group = max(1, args.items // _GROUPS)
    weights = 1.0 / (np.arange(per_group) + 5)
    weights /= weights.sum()
    leaving = round(args.users * args.leave)
    likes = random.integers(_GROUPS, size=[args.users + leaving * (args.days - 1), 2])
    active, days = np.arange(args.users), []
    for day in range(args.days):
        if day:
            newest = active.max()
            active = random.permutation(active)
            active[:leaving] = newest + 1 + np.arange(leaving)
        users = random.choice(active, args.rows)
        second = (random.random(args.rows) < 0.2).astype(np.int64)
        items = likes[users, second] * per_group + random.choice(per_group, args.rows, p=weights)
        times = _START + day * _DAY + np.sort(random.integers(_DAY, size=args.rows))
        days.append(np.stack([users, items, times], axis=1))
    return days


def _day(directory: str, way: str, overrides: list[str], day: int) -> dict[str, Any]:
    """Prepares, trains and evaluates one day."""
    place = pathlib.Path(directory, way)
    options = [
        f"source.paths=[{directory}/day-{day}.csv]",
        f"dataset.path={place}/data-{day}",
        f"output.path={place}/run-{day}",
        f"evaluate.k=[{_METRIC.partition('@')[2]}]",
        *overrides,
    ]
    if day > 1:
        options += [f"dataset.base={place}/data-{day - 1}", f"init.from={place}/run-{day - 1}"]
    for command in ("prepare", "train", "evaluate"):
        _command(command, f"{directory}/arrivals.yaml", options)
    results = json.loads((place / f"run-{day}" / "evaluate-test.json").read_bytes())["results"]
    manifest = json.loads((place / f"data-{day}" / "dataset.json").read_bytes())
    figures = {line["scorer"]: line[_METRIC] for line in results}
    return {
        "rows": manifest["tables"]["user"]["rows"],
        "popularity": figures["popularity"],
        _METRIC: figures["model"],
    }


def _command(command: str, config: str, options: list[str]) -> None:
    line = module_command("trainer.cli", command, "--config", config)
    line += [f"--set={option}" for option in options]
    if subprocess.run(line, stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError(f"lazytower {command} failed, see above; correct --set")


def _summary(figures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per way: means over all days, and over the last third, where most users have come and gone."""
    last = figures[-1]["day"]
    lines: list[dict[str, Any]] = []
    for way in dict.fromkeys(figure["ids"] for figure in figures):
        own = [figure for figure in figures if figure["ids"] == way]
        late = [figure for figure in own if figure["day"] > last * 2 // 3]
        mean = statistics.fmean(figure[_METRIC] for figure in late)
        lines.append(
            {
                "ids": way,
                "rows of the last day": own[-1]["rows"],
                "users ever": own[-1]["users ever"],
                "popularity": f"{statistics.fmean(figure['popularity'] for figure in own):.4f}",
                _METRIC: f"{statistics.fmean(figure[_METRIC] for figure in own):.4f}",
                "last third": f"{mean:.4f}",
                "ratio": mean,
            }
        )
    first = lines[0]["ratio"]
    return [line | {"ratio": f"{line['ratio'] / first:.3f}"} for line in lines]
