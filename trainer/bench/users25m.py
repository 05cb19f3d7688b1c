"""`lazytower bench users25m`: all commands at scale, stage by stage, each in its own process.

    lazytower bench users25m                        about 40 minutes on 2 cores; needs 18 GiB of free memory
    lazytower bench users25m --stages restore export

Stages are the commands that a user runs: prepare (skipped when the dataset exists), train, train again (it
restores the last checkpoint and finds nothing to do), warm (a run of one step that starts from the first),
day (`--day_rows` later rows, a hundredth of them of new users, prepared on the first dataset and trained
from the first run), evaluate, export, recommend. Their seconds are those of the process, imports included;
peak memory is the largest resident set, pages of mapped files included. `--repeat` measures each stage but
prepare as often, so that `lazytower bench compare` knows the noise. Then steps: one training step of
the same model on the same batches with the user table as it is and with `--few_rows` rows (user ids modulo
the rows), one process each, in turns.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import time

import numpy as np
from absl import logging

from configs.system.processes import module_command
from configs.text import aligned
from trainer.bench.results.figures import Figure, write_figures
from trainer.bench.results.machine import machine_text
from trainer.bench.timing import in_fresh_process, positive
from trainer.version import VERSION

CONFIG = "configs/users25m_cpu.yaml"
STAGES = ("prepare", "train", "restore", "warm", "day", "evaluate", "export", "recommend", "steps")
_WARMUP_STEPS = 5
_NEW_USERS = 0.01  # of the rows of a day
_Measured = tuple[str, str, float | str]
"""Name, unit and value of a figure."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--config", default=CONFIG, metavar="RUN.yaml", help="the run (default: %(default)s)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--few_rows", type=positive, default=1_000_000, help="rows of the smaller user table")
    parser.add_argument("--day_rows", type=positive, default=400_000, help="rows of the stage day")
    parser.add_argument(
        "--steps", type=positive, default=40, help="timed steps per turn, after 5 warm-up steps"
    )
    parser.add_argument("--turns", type=positive, default=2, help="turns per table size")
    parser.add_argument(
        "--repeat",
        type=positive,
        default=1,
        help="measurements of each stage but prepare (default: 1)",
    )
    parser.add_argument(
        "--output", default="bench_results", metavar="DIR", help="output directory of users25m.csv"
    )


def run(args: argparse.Namespace) -> int:
    """Runs the stages, prints their figures, writes users25m.csv."""
    from configs.load import load_config

    config = load_config(args.config, args.overrides)
    figures = [Figure("run", *each) for each in _circumstances(args, config)]
    for stage in args.stages:
        for _ in range(1 if stage == "prepare" else args.repeat):
            found = [Figure(stage, *each) for each in _STAGES[stage](args, config)]
            for each in found:
                logging.info("%s: %s %s %s", stage, each.name, each.shown, each.unit)
            figures += found
    print(aligned([(each.stage, each.name, each.shown, each.unit) for each in figures], left=(0, 1, 3)))
    path = os.path.join(args.output, "users25m.csv")
    write_figures(path, figures)
    print(f"written: {path}")
    return 0


def _circumstances(args, config) -> list[_Measured]:
    """Texts that must be equal for figures to be compared."""
    return [
        ("config", "", " ".join([args.config, *args.overrides])),
        ("lazytower", "", VERSION),
        ("machine", "", machine_text()),
        ("LAZYTOWER_KERNELS", "", os.environ.get("LAZYTOWER_KERNELS", "not set")),
    ]


def _command(args, *command: str) -> list[_Measured]:
    """Runs `lazytower command` on the config: its seconds and peak memory."""
    started = time.monotonic()
    process = subprocess.Popen(
        module_command("trainer.cli", *_arguments(args, command)), stdout=subprocess.DEVNULL
    )
    # Unlike RUSAGE_CHILDREN, the usage of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)  # the command has printed the reason
    seconds = time.monotonic() - started
    return [("time", "s", round(seconds, 2)), ("peak memory", "GB", usage.ru_maxrss * 1024 / 1e9)]


def _arguments(args, command: tuple[str, ...]) -> list[str]:
    """Of the command line: the run's config, unless the command takes an exported model instead."""
    if "--model" in command:
        return [*command]
    return [*command, "--config", args.config, *(f"--set={override}" for override in args.overrides)]


def _prepare(args, config) -> list[_Measured]:
    if os.path.exists(os.path.join(config.dataset.path, "dataset.json")):
        return [("skipped", "", "the dataset exists")]
    return [*_command(args, "prepare"), ("dataset", "GB", _gigabytes(config.dataset.path))]


def _train(args, config) -> list[_Measured]:
    from trainer.report.metrics_file import read_metrics

    if os.path.exists(os.path.join(config.output.path, "metrics.jsonl")):
        logging.info("removing %s, left by an earlier benchmark", config.output.path)
        shutil.rmtree(config.output.path)
    figures = _command(args, "train")
    lines = read_metrics(config.output.path)
    rates = [line["examples_per_second"] for line in lines if line["kind"] == "train"][1:]
    rate = statistics.median(rates) if rates else float("nan")
    tables = next(line["table_bytes"] for line in lines if line.get("event") == "start")
    peak = max(line.get("peak_rss_bytes", 0) for line in lines)
    figures += [
        ("tables", "GB", tables / 1e9),
        ("peak memory / tables", "x", peak / tables),
        ("median rate", "examples/s", rate),
        ("median steps", "steps/s", rate / config.train.batch_size),
    ]
    saved = [line for line in lines if line.get("event") == "checkpoint"]
    paused = sum(line["blocked_seconds"] for line in saved)
    figures += [("paused by checkpoints", "s", paused)]
    for kind in ("full", "increment"):
        mine = [line for line in saved if line["checkpoint"] == kind]
        if mine:
            modes = "/".join(sorted({line["mode"] for line in mine}))
            figures += [
                (f"{kind} checkpoint", "s", statistics.median(line["written_seconds"] for line in mine)),
                (f"{kind} checkpoint", "GB", statistics.median(line["bytes"] for line in mine) / 1e9),
                (f"{kind} checkpoints", "", f"{len(mine)} {modes}"),
            ]
    return figures


def _restore(args, config) -> list[_Measured]:
    from trainer.report.metrics_file import read_metrics

    figures = _command(args, "train")
    line = [line for line in read_metrics(config.output.path) if line.get("event") == "resume"][-1]
    return [*figures, ("restore", "s", line["restore_seconds"]), ("read", "GB", line["bytes"] / 1e9)]


def _warm(args, config) -> list[_Measured]:
    from trainer.report.metrics_file import read_metrics

    place = f"{config.output.path}-warm"
    shutil.rmtree(place, ignore_errors=True)
    one = [f"init.from={config.output.path}", f"output.path={place}"]
    one += ["train.num_epochs=null", "train.num_steps=1"]
    figures = _command(argparse.Namespace(**{**vars(args), "overrides": [*args.overrides, *one]}), "train")
    line = [line for line in read_metrics(place) if line.get("event") == "warm_start"][-1]
    shutil.rmtree(place)
    return [*figures, ("warm start", "s", line["seconds"]), ("read", "GB", line["bytes"] / 1e9)]


def _day(args, config) -> list[_Measured]:
    from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
    from trainer.report.metrics_file import read_metrics

    if not isinstance(config.source, SyntheticSourceConfig):
        return [("skipped", "", "later rows can only be drawn with source.kind: synthetic")]
    data, run, rows = (
        f"{config.dataset.path}-day",
        f"{config.output.path}-day",
        f"{config.dataset.path}-day.parquet",
    )
    for place in (data, run):
        shutil.rmtree(place, ignore_errors=True)
    _write_day(config, args.day_rows, rows)
    source = f"source={{kind: parquet, paths: [{rows}], roles: {{timestamp: timestamp}}}}"
    overrides = [*args.overrides, source, f"dataset.base={config.dataset.path}", f"dataset.path={data}"]
    overrides += [f"init.from={config.output.path}", f"output.path={run}"]
    day = argparse.Namespace(**{**vars(args), "overrides": overrides})
    before = _files(config.dataset.path)
    prepared = _command(day, "prepare")
    after = _files(config.dataset.path)
    changed = sum(before.get(path) != after.get(path) for path in before.keys() | after.keys())
    trained = _command(day, "train")
    line = [line for line in read_metrics(run) if line.get("event") == "warm_start"][-1]
    for place in (data, run):
        shutil.rmtree(place)
    os.remove(rows)
    return [
        *((f"prepare: {name}", unit, value) for name, unit, value in prepared),
        ("changed files of the first dataset", "files", changed),
        *((f"train: {name}", unit, value) for name, unit, value in trained),
        ("new users", "rows", line["tables"]["user"]["new"]),
        ("warm start", "s", line["seconds"]),
        ("read", "GB", line["bytes"] / 1e9),
    ]


def _write_day(config, number: int, path: str) -> None:
    """Writes planted rows that follow those of the source: users by activity, some of them unknown."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from configs.planted.interactions import FIRST_TIMESTAMP, Planted, item_key, user_key

    source = config.source
    rows = source.rows + np.arange(number)
    drawn = Planted(source.model_copy(update={"rows": 1})).users(rows)  # in turn, if there were more rows
    items = Planted(source).items(rows, drawn)
    new = np.arange(number) % round(1 / _NEW_USERS) == 0
    users = np.where(new, source.users + np.arange(number), drawn)
    columns = {"user": user_key(users), "item": item_key(items)}
    table = {name: pa.array(keys.astype(str)) for name, keys in columns.items()}
    pq.write_table(pa.table(table | {"timestamp": pa.array(FIRST_TIMESTAMP + rows)}), path)


def _files(directory: str) -> dict[str, tuple[int, int]]:
    """(size, time of change in ns) of all files."""
    found = [os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names]
    return {path: (os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in found}


def _export(args, config) -> list[_Measured]:
    from trainer.serving.versions import versions

    figures = _command(args, "export")
    path = os.path.join(config.export_path, str(max(versions(config.export_path))))
    return [*figures, ("SavedModel", "GB", _gigabytes(path))]


def _steps(args, config) -> list[_Measured]:
    from configs.manifest import load_dataset

    rows = load_dataset(config.dataset.path).table_rows("user")
    times: dict[int, list[float]] = {args.few_rows: [], rows: []}
    distinct: dict[int, float] = {}
    for _ in range(args.turns):
        for size, mine in times.items():
            turn, distinct[size] = in_fresh_process(_time_steps, config, size, args.steps)
            mine += turn
    medians = {size: 1000 * statistics.median(mine) for size, mine in times.items()}
    figures: list[_Measured] = []
    for size in times:
        name = f"step with {size:,} user rows"
        figures += [(name, "ms", medians[size]), (f"{name}, distinct users", "rows", distinct[size])]
    return [*figures, ("ratio", "x", medians[rows] / medians[args.few_rows])]


def _time_steps(config, user_rows: int, steps: int) -> tuple[list[float], float]:
    """(seconds of each step, mean number of distinct user rows) with a user table of so many rows."""
    from trainer.runtime import start_tensorflow

    tf = start_tensorflow(config.device)
    from configs.manifest import load_dataset
    from trainer.training.build import build_training

    dataset = load_dataset(config.dataset.path)
    user = dataset.tables["user"].model_copy(update={"rows": user_rows})
    dataset = dataset.model_copy(update={"tables": {**dataset.tables, "user": user}})
    training = build_training(config, dataset)
    training.recommender.initialize()
    train_step = tf.function(training.step, reduce_retracing=True)
    seconds, distinct = [], []
    for batch in training.data.batches(0).take(_WARMUP_STEPS + steps):
        batch["user"] %= user_rows
        distinct.append(len(np.unique(batch["user"])))
        started = time.perf_counter()
        train_step(batch)
        seconds.append(time.perf_counter() - started)
    return seconds[_WARMUP_STEPS:], float(np.mean(distinct[_WARMUP_STEPS:]))


def _gigabytes(path: str) -> float:
    size = sum(os.path.getsize(os.path.join(f, name)) for f, _, names in os.walk(path) for name in names)
    return size / 1e9


_STAGES = {
    "prepare": _prepare,
    "train": _train,
    "restore": _restore,
    "warm": _warm,
    "day": _day,
    "evaluate": lambda args, config: _command(args, "evaluate"),
    "export": _export,
    "recommend": lambda args, config: _command(args, "recommend", "--model", config.export_path),
    "steps": _steps,
}
