"""`lazytower bench scaling`: how step time grows with table and batch size, and what averages cost.

    lazytower bench scaling                         about 2 minutes on 2 cores
    lazytower bench scaling --max_rows 25000000     about 12 minutes, 20 GiB of free memory

Three optimizers on one table: `adam` is tf_keras Adam, which passes over the table, `tfa` TF-Addons LazyAdam,
`rows` lazytower's lazy Adam on records. Lazy must be flat in rows. Before them, at the largest table, lazy
Adam with exact averages beside TF-Addons with its MovingAverage and without averages. A step looks up
`--batch` uniform ids, in pairs (model and phases as in bench optimizers). Optimizers on tables of one size
are measured one after the other in one process. What does not fit into free memory is skipped: '-', with
the reason below.
"""

import argparse
import functools
import itertools
import os

from absl import logging

from trainer.bench.results.page import lines, print_table, write_csv, write_page
from trainer.bench.timing import add_shared_arguments, in_fresh_process, measured, positive, start_bench

_ROWS = (1_000_000, 2_000_000, 5_000_000, 10_000_000, 25_000_000)
_BATCHES = (256, 1_024, 4_096, 16_384, 32_768, 131_072)
_OPTIMIZERS = ("rows", "tfa", "adam")
AVERAGING = ("rows + exact average", "tfa + MovingAverage", "tfa")
_DENSE = ("adam", AVERAGING[1])
_DECAY = 0.999
DENSE_STEPS = 3  # limit for dense optimizers, which take seconds at 25 million rows
_KEYS = ("part", "rows", "batch", "optimizer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--max_rows", type=positive, default=5_000_000, help="rows of the largest table")
    parser.add_argument(
        "--rows", type=positive, default=1_000_000, help="rows of the table while the batch grows"
    )
    parser.add_argument("--dim", type=positive, default=32, help="width of a row")
    parser.add_argument("--batch", type=positive, default=32_768, help="ids per step while the table grows")
    parser.add_argument("--max_batch", type=positive, default=131_072, help="ids of the largest batch")
    parser.add_argument("--optimizers", nargs="+", choices=_OPTIMIZERS, default=_OPTIMIZERS)
    add_shared_arguments(parser, "bench_results")


def run(args: argparse.Namespace) -> int:
    """Measures the three parts, prints the table, writes scaling.csv and scaling.html."""
    rows = []
    for (part, table_rows, batch), cases in itertools.groupby(plan(args), lambda case: case[:3]):
        names = [name for *_, name in cases]
        # In its own process: memory that TensorFlow keeps from freed tables would add up.
        results = in_fresh_process(_measure, names, table_rows, batch, args)
        for name, result in zip(names, results, strict=True):
            rows.append(dict(zip(_KEYS, (part, table_rows, batch, name), strict=True)) | result)
            shown = result["reason"] or f"{result['total_ms']:,.1f} ms"
            logging.info("%s: %s rows, batch %s, %s: %s", part, f"{table_rows:,}", f"{batch:,}", name, shown)
    print_table(rows, _KEYS)
    write_csv(os.path.join(args.output, "scaling.csv"), rows, _KEYS)
    path = os.path.join(args.output, "scaling.html")
    title = f"Scaling of table updates, dim {args.dim}"
    write_page(path, title, "lazytower bench scaling", _figures(rows), rows, _KEYS)
    print(f"written: {path} and scaling.csv beside it")
    return 0


def plan(args: argparse.Namespace) -> list[tuple[str, int, int, str]]:
    """(part, rows, batch, optimizer) of every measurement."""
    # The largest requested size is always measured, even if it is not in the list.
    sizes = sorted({n for n in _ROWS if n < args.max_rows} | {args.max_rows})
    batches = sorted({n for n in _BATCHES if n < args.max_batch} | {args.max_batch})
    found = [("averaging", args.max_rows, args.batch, name) for name in AVERAGING]
    found += [("rows", n, args.batch, name) for n in sizes[::-1] for name in args.optimizers]
    return found + [("batch", args.rows, n, name) for n in batches for name in args.optimizers]


def _measure(names: list[str], table_rows: int, batch: int, args: argparse.Namespace) -> list[dict]:
    """Results of optimizers on one size of table, one after the other in this process."""
    start_bench(args.threads)
    pairs = max(batch // 2, 1)  # two lookups make a pair
    results = []
    for name in names:
        build = functools.partial(_case, name, table_rows, args.dim, pairs)
        steps = min(args.steps, DENSE_STEPS) if name in _DENSE else args.steps
        results.append(measured(build, table_rows, pairs, steps))
    return results


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
    from configs.sections.tables import TableConfig
    from trainer.averages import Exponential
    from trainer.bench.cases import tables

    if optimizer == "adam":
        return tables.keras_case(rows, dim, "adam")
    if optimizer.startswith("tfa"):
        return tables.addons_case(rows, dim, "lazy_adam", average=optimizer != "tfa")
    average = Exponential(_DECAY) if optimizer == AVERAGING[0] else None
    return tables.OurCase(rows, TableConfig(dim=dim), "lazy_adam", pairs, average)
