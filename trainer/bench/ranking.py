"""`lazytower bench ranking`: a training step of ranking models, compared with TFRS, PyTorch and TorchRec.

    scripts/peers.sh ranking --batch 8192                  all libraries, in a separate environment
    lazytower bench ranking --interaction cross            DCN-v2; without PyTorch and TorchRec
    lazytower bench ranking --config configs/criteo.yaml   an epoch of a prepared dataset

What cannot be imported, and what does not fit into memory, shows '-' and the reason.

The same model everywhere (trainer/bench/cases/ranking.py), from the same weights on the same batches with
Zipf keys: 26 tables in the proportions of Criteo's display challenge. lazytower's step is that of `train`,
with exact averages of all weights and the guard. lazy_adam is lazy Adam on the tables and Adam on dense
layers (TF-Addons LazyAdam; torch SparseAdam and Adam); adagrad and sgd are that for all weights (for TFRS
Keras's legacy ones). Each library first trains alone in a process of its own: the losses of its first steps,
which must agree to 1e-4, and its peak memory less that with the libraries loaded. Then all take turns, step
by step, in one more process; if they do not fit into memory together, each takes turns with lazytower.
x_lazytower is the median, over `--turns` processes, of the ratio of medians of `--steps` steps.

With `--config`, tables, batch size and batches are those of the run's prepared dataset, and each library
trains an epoch in a process of its own; reading counts. Model and optimizers are those of the flags.
"""

import argparse
import os

from trainer.bench.parts.turns import COMPARED
from trainer.bench.timing import add_shared_arguments, positive

RANKING_PEERS = ("lazytower", "tfrs", "torch", "torchrec")
_OPTIMIZERS = ("lazy_adam", "adagrad", "sgd")
_KEYS = ("interaction", "optimizer", "batch", "by")
STEP_COLUMNS = (*_KEYS, *COMPARED)
EPOCH_COLUMNS = (*_KEYS, "steps", "seconds", "rows_per_s", "x_lazytower", "memory_mb", "loss", "reason")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument("--interaction", choices=["dot", "cross"], default="dot", help="DLRM or DCN-v2")
    parser.add_argument("--crosses", type=positive, default=3, help="crosses of --interaction cross")
    parser.add_argument("--rows", type=positive, default=10_000_000, help="rows of all tables together")
    parser.add_argument("--dim", type=positive, default=16, help="width of all tables")
    parser.add_argument("--numbers", type=positive, default=13, help="number of numeric features")
    parser.add_argument(
        "--bottom",
        nargs="*",
        type=positive,
        default=[512, 256],
        help="widths of the dense layers over the numbers, before the one as wide as the tables",
    )
    parser.add_argument(
        "--top", nargs="+", type=positive, default=[512, 256], help="widths of the layers before the logit"
    )
    parser.add_argument(
        "--batch", nargs="+", type=positive, default=[2_048, 8_192, 32_768, 65_536], help="rows per step"
    )
    parser.add_argument(
        "--optimizers", nargs="+", choices=_OPTIMIZERS, default=["lazy_adam", "adagrad"], help="optimizers"
    )
    parser.add_argument(
        "--peers", nargs="+", choices=RANKING_PEERS, default=RANKING_PEERS, help="libraries to measure"
    )
    parser.add_argument("--turns", type=positive, default=3, help="processes in which they take turns")
    parser.add_argument("--config", metavar="RUN.yaml", help="measure an epoch of this run's dataset")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    add_shared_arguments(parser, "bench_results")


def run(args: argparse.Namespace) -> int:
    """Measures, prints the table, writes ranking.csv and ranking.html, or ranking_epoch.csv and .html."""
    from trainer.bench.parts.ranked_epoch import measure_epochs
    from trainer.bench.parts.ranked_steps import measure_steps
    from trainer.bench.results.page import print_plain_table, write_plain_csv, write_tables

    name = "ranking_epoch" if args.config else "ranking"
    columns = EPOCH_COLUMNS if args.config else STEP_COLUMNS
    rows = (measure_epochs if args.config else measure_steps)(args)
    print_plain_table(rows, columns)
    write_plain_csv(os.path.join(args.output, f"{name}.csv"), rows, columns)
    path = os.path.join(args.output, f"{name}.html")
    shown = [{column: row.get(column, "-") for column in columns} for row in rows]
    title = f"Training {'an epoch' if args.config else 'steps'} of ranking models"
    write_tables(path, title, "lazytower bench ranking", {title: shown})
    print(f"written: {path} and {name}.csv beside it")
    return 0
