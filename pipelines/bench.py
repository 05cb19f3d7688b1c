"""`lazytower bench prepare`: compares prepare with polars on the same interactions.

    lazytower bench prepare --rows 5000000
    lazytower bench prepare --repeats 3 --csv prepare.csv

Each case runs in a separate process; time and memory are those of the whole process, including imports.
Repeated cases alternate, and the run with the median time counts.
The polars case writes records only (train, valid and test), no catalogs, checksums or rejected rows.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from configs.system.processes import module_command
from configs.text import aligned

_CASES = {
    "synthetic": "lazytower prepare, synthetic source",
    "csv": "lazytower prepare, CSV",
    "polars": "polars, CSV",
}
_FILES = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--rows", type=int, default=5_000_000, help="number of interactions")
    parser.add_argument("--users", type=int, default=200_000, help="number of users")
    parser.add_argument("--items", type=int, default=50_000, help="number of items")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each case, alternating")
    parser.add_argument("--csv", metavar="FILE", help="also write the results to this file")


def run(args: argparse.Namespace) -> int:
    """Runs all cases and prints a table."""
    with tempfile.TemporaryDirectory() as directory:
        _write_csv(f"{directory}/interactions.csv", args)
        runs = [{case: _run_case(case, directory, args) for case in _CASES} for _ in range(args.repeats)]
    results = {case: sorted(turn[case] for turn in runs)[(len(runs) - 1) // 2] for case in _CASES}
    _print_table(results, args.rows)
    if args.csv:
        _write_figures(args.csv, results, args.rows)
    return 0


def _sections(case: str, directory: str, args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    if case == "synthetic":
        source = {"kind": "synthetic", "rows": args.rows, "users": args.users, "items": args.items}
    else:
        paths = [f"{directory}/interactions.csv"]
        source = {"kind": "delimited", "paths": paths, "roles": {"timestamp": "timestamp"}}
    return source, {"path": f"{directory}/{case}", "split": {"kind": "temporal"}, "num_shards": _FILES}


def _write_csv(path: str, args: argparse.Namespace) -> None:
    """The synthetic source's interactions as user,item,timestamp."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    from configs.sections.source_kinds.synthetic import SyntheticSourceConfig
    from pipelines.job import JobLayout
    from pipelines.sources.synthetic import Reader

    source = SyntheticSourceConfig(kind="synthetic", rows=args.rows, users=args.users, items=args.items)
    reader = Reader(source, JobLayout("", ""))
    reader.setup()
    with open(path, "wb") as file:
        file.write(b"user,item,timestamp\n")
        for part in reader.ranges():
            for piece in reader.read(part, part.start, 1):
                columns = {
                    name: values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
                    for name, values in piece.columns.items()
                }
                options = arrow_csv.WriteOptions(include_header=False, quoting_style="none")
                arrow_csv.write_csv(pa.table(columns), file, options)


def _run_case(case: str, directory: str, args: argparse.Namespace) -> tuple[float, int, float]:
    """Seconds, peak bytes and seconds of all cores of the case's process and its children."""
    import psutil

    numbers = [str(args.rows), str(args.users), str(args.items)]
    start, used = time.monotonic(), _cpu_of_children()
    child = subprocess.Popen(
        module_command("pipelines.bench", case, directory, *numbers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak, root = 0, psutil.Process(child.pid)
    while child.poll() is None:
        try:
            family = [root, *root.children(recursive=True)]
            peak = max(peak, sum(process.memory_info().rss for process in family))
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    seconds = time.monotonic() - start
    if child.returncode and child.stderr:
        raise RuntimeError(f"{case} failed:\n{child.stderr.read().decode()}")
    return seconds, peak, _cpu_of_children() - used


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _print_table(results: dict[str, tuple[float, int, float]], rows: int) -> None:
    base = results["polars"]
    print(f"{rows:,} rows, {len(os.sched_getaffinity(0))} cores")
    table = [["", "seconds", "rows/s", "CPU s", "peak MB", "speed", "memory"]]
    for case, (seconds, peak, cpu) in results.items():
        figures = [f"{seconds:.1f}", f"{rows / seconds:,.0f}", f"{cpu:.1f}", f"{peak / 1e6:.0f}"]
        table.append([_CASES[case], *figures, f"{base[0] / seconds:.2f}", f"{peak / base[1]:.2f}"])
    print(aligned(table))
    print("speed and memory: polars = 1")


def _write_figures(path: str, results: dict[str, tuple[float, int, float]], rows: int) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "rows", "seconds", "cpu_seconds", "peak_mb"])
        for case, (seconds, peak, cpu) in results.items():
            writer.writerow([_CASES[case], rows, f"{seconds:.2f}", f"{cpu:.2f}", round(peak / 1e6)])


def _prepare(case: str, directory: str, args: argparse.Namespace) -> None:
    from configs.load import parse_config
    from pipelines.prepare import prepare

    source, dataset = _sections(case, directory, args)
    document = {
        "source": source,
        "dataset": dataset,
        "train": {"num_steps": 1},
        "output": {"path": directory},
    }
    config = parse_config(document, "bench")
    prepare(config.source, config.dataset, overwrite=True)


def _polars(directory: str) -> None:
    """Vocabulary ids by train frequency, temporal split, shuffle, columnar files."""
    import polars as pl

    frame = pl.read_csv(
        f"{directory}/interactions.csv", schema={"user": pl.String, "item": pl.String, "timestamp": pl.Int64}
    )
    cuts = [frame["timestamp"].quantile(q, "lower") for q in (0.8, 0.9)]
    time_column = pl.col("timestamp")
    frame = frame.with_columns(
        split=(time_column >= cuts[0]).cast(pl.Int8) + (time_column >= cuts[1]).cast(pl.Int8),
        label=pl.lit(1.0, pl.Float32),
    )
    for name in ("user", "item"):
        counts = frame.filter(pl.col("split") == 0).group_by(name).len()
        ids = counts.sort(["len", name], descending=[True, False]).with_row_index("id").select(name, "id")
        frame = frame.join(ids, on=name, how="left").with_columns(
            pl.col("id").fill_null(len(ids)).alias(name)
        )
        frame = frame.drop("id")
    frame = frame.sample(fraction=1.0, shuffle=True, seed=0)
    os.makedirs(f"{directory}/polars", exist_ok=True)
    for number, split in enumerate(("train", "valid", "test")):
        part = frame.filter(pl.col("split") == number).drop("split")
        files = _FILES if split == "train" else 2
        step = -(-len(part) // files)
        for i in range(files):
            part.slice(i * step, step).write_parquet(f"{directory}/polars/{split}-{i}.parquet")


def _main(case: str, directory: str, rows: str, users: str, items: str) -> None:
    args = argparse.Namespace(rows=int(rows), users=int(users), items=int(items))
    if case == "polars":
        _polars(directory)
    else:
        _prepare(case, directory, args)


if __name__ == "__main__":
    _main(*sys.argv[1:])
