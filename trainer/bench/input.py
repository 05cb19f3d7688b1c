"""`lazytower bench input`: how fast the reader is alone, and how long training waits for it.

    lazytower bench input --config run.yaml --steps 100

`reader`: batches of the prepared dataset are read and discarded. `training`: real steps of the config's
model, with the wait for a batch and the step timed separately, after 5 warm-up steps.
"""

import argparse
import os
import time

from trainer.bench.results.page import write_plain_csv
from trainer.bench.timing import positive

_WARMUP_STEPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the benchmark."""
    parser.add_argument(
        "--config", required=True, metavar="RUN.yaml", help="the run; its dataset must be prepared"
    )
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--steps", type=positive, default=100, help="batches to read, and steps to train")
    parser.add_argument(
        "--output", default="bench_results", metavar="DIR", help="output directory of input.csv"
    )


def run(args: argparse.Namespace) -> int:
    """Measures, prints, and writes input.csv."""
    from configs.load import load_config

    figures = measure_input(load_config(args.config, args.overrides), args.steps)
    for name, value in figures.items():
        print(f"{name:<22}{value:,.4g}" if value < 1000 else f"{name:<22}{value:,.0f}")
    path = os.path.join(args.output, "input.csv")
    write_plain_csv(path, [figures])
    print(f"written: {path}")
    return 0


def measure_input(config, steps: int) -> dict[str, float]:
    """reader_rows_per_second, step_ms (median) and waiting_share of a run's training.

    Args:
      config: configs.schema.RunConfig; its dataset must be prepared.
      steps: of each measurement.

    Raises:
      DataError: the dataset is missing or has too few rows.
    """
    from trainer.runtime import start_tensorflow

    start_tensorflow(config.device)
    import tensorflow as tf

    from configs.manifest import load_dataset
    from trainer.data.checks import check_dataset
    from trainer.training.build import build_training

    dataset = load_dataset(config.dataset.path)
    check_dataset(config, dataset)
    training = build_training(config, dataset)
    training.recommender.initialize()
    training.step.send_rows()
    reader = iter(training.data.batches(0))
    seconds, _ = _timed(reader, lambda batch: None, steps)
    rows = steps * config.train.batch_size / sum(seconds)
    step = tf.function(training.step, reduce_retracing=True)
    batches = iter(training.step.batches(training.data, 0))
    waits, works = _timed(batches, lambda batch: step(batch)[0].numpy(), steps)
    return {
        "batch_size": config.train.batch_size,
        "reader_rows_per_second": rows,
        "step_ms": 1000 * sorted(works)[steps // 2],
        "waiting_share": sum(waits) / (sum(waits) + sum(works)),
    }


def _timed(batches, work, steps: int) -> tuple[list[float], list[float]]:
    """Seconds of waiting for each batch, and of the work on it."""
    waits, works = [], []
    for i in range(_WARMUP_STEPS + steps):
        started = time.perf_counter()
        batch = next(batches)
        there = time.perf_counter()
        work(batch)
        if i >= _WARMUP_STEPS:
            waits.append(there - started)
            works.append(time.perf_counter() - there)
    return waits, works
