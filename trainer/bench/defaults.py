r"""`lazytower bench defaults`: quality of settings, raw and averaged, compared with popularity.

    lazytower bench defaults --configs a.yaml b.yaml --try "dot=model.normalize=false" \
        --try "narrow=tables.user.dim=16 tables.item.dim=17"

Each config is trained as written (`as_written`) and again with the overrides of each `--try`, in
one process, without checkpoints, and evaluated on `--split`. The figure is Recall (HR under the sampled
protocol) at the last of evaluate.k. Datasets must be prepared; a try that changes what `prepare` writes is
refused. docs/decisions.md has the table behind the project's defaults.
"""

import argparse
import gc
import os
from typing import TYPE_CHECKING

from absl import logging

from configs.errors import UserError
from trainer.bench.timing import positive

if TYPE_CHECKING:
    from configs.manifest import Dataset
    from configs.schema import RunConfig
    from trainer.training.build import Training

COLUMNS = ("config", "try", "metric", "average", "raw", "popularity", "steps", "first_loss", "last_loss")
AS_WRITTEN = "as_written"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument(
        "--configs",
        nargs="+",
        required=True,
        metavar="FILE",
        help="run configs, whose datasets must be prepared",
    )
    parser.add_argument(
        "--try",
        action="append",
        default=[],
        dest="tries",
        metavar="NAME=OVERRIDES",
        help="overrides as for --set, separated by spaces",
    )
    parser.add_argument("--split", choices=["valid", "test"], default="valid", help="split to evaluate")
    parser.add_argument(
        "--seeds", type=positive, default=1, help="seeds per setting; figures are their means"
    )
    parser.add_argument("--output", default="bench_results", help="output directory of defaults.csv")


def run(args: argparse.Namespace) -> int:
    """Trains all, prints the table and writes it."""
    from trainer.bench.results.page import print_plain_table, write_plain_csv

    tries: dict[str, list[str]] = {AS_WRITTEN: []} | dict(map(parse_try, args.tries))
    rows = []
    for path in args.configs:
        for name, overrides in tries.items():
            rows.append(_mean([_measured(path, name, overrides, s, args.split) for s in range(args.seeds)]))
            logging.info("%s", rows[-1])
    print_plain_table(rows, COLUMNS)
    os.makedirs(args.output, exist_ok=True)
    write_plain_csv(os.path.join(args.output, "defaults.csv"), rows, COLUMNS)
    return 0


def parse_try(text: str) -> tuple[str, list[str]]:
    """(name, overrides) of NAME=OVERRIDES; UserError when it has another form."""
    name, equals, overrides = text.partition("=")
    if not equals or not name or any("=" not in override for override in overrides.split()):
        raise UserError(f"--try {text}: write NAME=key=value key=value")
    return name, overrides.split()


def _measured(path: str, name: str, overrides: list[str], seed: int, split: str) -> dict:
    """One run as a row of COLUMNS."""
    from configs.load import load_config
    from configs.manifest import load_dataset

    config = load_config(path, [*overrides, f"train.seed={seed}", "evaluate.weights=both"])
    dataset = load_dataset(config.dataset.path)
    training, losses = train_in_memory(config, dataset)
    from trainer.evaluation.scorer import evaluate_recommender
    from trainer.report.findings import main_metric

    lines = evaluate_recommender(
        training.recommender, dataset, training.items, training.num_steps, split, lambda: None
    )
    metric = main_metric(lines[0])
    assert metric is not None, "every protocol has Recall or HR"
    figures = {
        line["scorer"] if line["scorer"] != "model" else line["weights"]: line[metric] for line in lines
    }
    num_steps = training.num_steps
    del training
    gc.collect()  # graphs hold the tables in reference cycles
    return {
        "config": config.name,
        "try": name,
        "metric": metric,
        "average": figures.get("average"),
        "raw": figures["raw"],
        "popularity": figures["popularity"],
        "steps": num_steps,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


def train_in_memory(config: "RunConfig", dataset: "Dataset") -> "tuple[Training, list[float]]":
    """Trains a config on its dataset, without checkpoints or a report.

    Returns:
      (what was trained, losses of the loops).

    Raises:
      UserError: the dataset cannot be used, or a loss or gradient is not finite.
    """
    from trainer.runtime import start_tensorflow

    start_tensorflow(config.device)
    from trainer.data.checks import check_dataset
    from trainer.training.build import build_training
    from trainer.training.loop import Loop

    check_dataset(config, dataset)
    training = build_training(config, dataset)
    training.recommender.initialize()
    training.step.send_rows()
    losses: list[float] = []
    batches = training.step.batches(training.data, 0)
    loop = Loop(training.step, batches, training.num_steps, config.train.steps_per_loop)
    loop.run(lambda step, steps, loss: losses.append(loss), [], _refuse)
    return training, losses


def _refuse(step: int) -> None:
    raise UserError(f"step {step:,}: a loss or gradient is not finite; lower the learning rates of this try")


def _mean(rows: list[dict]) -> dict:
    """The rows of several seeds as one."""
    merged = dict(rows[0])
    for key in ("average", "raw", "popularity", "first_loss", "last_loss"):
        if merged[key] is not None:
            merged[key] = round(sum(row[key] for row in rows) / len(rows), 4)
    return merged
