"""`lazytower bench scaling`: how a step's time grows with table and batch, and what averages cost.

    lazytower bench scaling                         about 2 minutes on 2 cores
    lazytower bench scaling --max_rows 25000000     wants much more than 24 GiB of free memory

Three optimizers on one table: `adam` is tf_keras Adam, which passes over the table, `tfa` TF-Addons LazyAdam,
`rows` lazytower's lazy Adam on records. Lazy must be flat in rows. Then, at the largest table, lazy Adam with
exact averages beside TF-Addons without averages and with its MovingAverage, one after the other in this
process. A step looks up `--batch` uniform ids, in pairs (model and phases as in bench optimizers). What free
memory does not suffice for is skipped: '-', and the reason below.
TensorFlow keeps what earlier tables freed.
"""

import argparse
import functools
import os

from absl import logging

from trainer.bench_page import lines, print_table, write_csv, write_page
from trainer.bench_timing import add_shared_arguments, measured, positive, start

ROWS = (1_000_000, 2_000_000, 5_000_000, 10_000_000, 25_000_000)
BATCHES = (256, 1_024, 4_096, 16_384, 32_768, 131_072)
OPTIMIZERS = ("adam", "tfa", "rows")
AVERAGING = ("rows + exact average", "tfa", "tfa + MovingAverage")
DECAY = 0.999
MOVING_AVERAGE_STEPS = 3  # each passes over the table, seconds at 25 million rows
KEYS = ("part", "rows", "batch", "optimizer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--max_rows", type=positive, default=5_000_000, help="rows of the largest table")
    parser.add_argument("--rows", type=positive, default=1_000_000, help="rows, where the batch grows")
    parser.add_argument("--dim", type=positive, default=32, help="width of a row")
    parser.add_argument("--batch", type=positive, default=32_768, help="ids per step, where the table grows")
    parser.add_argument("--max_batch", type=positive, default=131_072, help="ids of the largest batch")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    add_shared_arguments(parser, "bench_results")


def run(args: argparse.Namespace) -> int:
    """Measures the three parts, prints the table, writes scaling.csv and scaling.html."""
    start(args.threads)
    rows = []
    for part, table_rows, batch, optimizer in plan(args):
        # Two lookups make a pair.
        pairs = max(batch // 2, 1)
        build = functools.partial(_case, optimizer, table_rows, args.dim, pairs)
        steps = min(args.steps, MOVING_AVERAGE_STEPS) if optimizer == AVERAGING[2] else args.steps
        result = measured(build, table_rows, pairs, steps)
        rows.append(dict(zip(KEYS, (part, table_rows, batch, optimizer), strict=True)) | result)
        shown = result["reason"] or f"{result['total_ms']:,.1f} ms"
        logging.info("%s: %s rows, batch %s, %s: %s", part, f"{table_rows:,}", f"{batch:,}", optimizer, shown)
    print_table(rows, KEYS)
    write_csv(os.path.join(args.output, "scaling.csv"), rows, KEYS)
    path = os.path.join(args.output, "scaling.html")
    title = f"Scaling of table updates, dim {args.dim}"
    write_page(path, title, "lazytower bench scaling", _figures(rows), rows, KEYS)
    print(f"written: {path} and scaling.csv beside it")
    return 0


def plan(args: argparse.Namespace) -> list[tuple[str, int, int, str]]:
    """(part, rows, batch, optimizer) of every measurement."""
    # The largest asked for is always measured, on the ladder or not.
    sizes = sorted({n for n in ROWS if n < args.max_rows} | {args.max_rows})
    batches = sorted({n for n in BATCHES if n < args.max_batch} | {args.max_batch})
    found = [("rows", n, args.batch, name) for n in sizes for name in args.optimizers]
    found += [("batch", args.rows, n, name) for n in batches for name in args.optimizers]
    return found + [("averaging", args.max_rows, args.batch, name) for name in AVERAGING]


def _figures(rows: list[dict]) -> list[str]:
    figures = []
    for part in ("rows", "batch"):
        mine = [row for row in rows if row["part"] == part]
        for phase in ("update", "total"):
            title = f"{phase}, over {part}"
            figures.append(lines(f"{part}-{phase}", title, mine, part, "optimizer", f"{phase}_ms"))
    return figures


def _case(optimizer: str, rows: int, dim: int, pairs: int):
    """Makes the case, or raises NotMeasured."""
    from configs.models import TableConfig
    from trainer import bench_cases
    from trainer.polyak import Exponential

    if optimizer == "adam":
        return bench_cases.keras_case(rows, dim, "adam")
    if optimizer.startswith("tfa"):
        return bench_cases.addons_case(rows, dim, "lazy_adam", average=optimizer != "tfa")
    average = Exponential(DECAY) if optimizer == AVERAGING[0] else None
    return bench_cases.OurCase(rows, TableConfig(dim=dim), "lazy_adam", pairs, average)
