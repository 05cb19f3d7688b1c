"""An epoch of `bench ranking` from a prepared dataset, by each library in a process of its own.

All read the same batches with lazytower's reader. The first steps, in which graphs are traced, count in
`seconds`, but not in `rows_per_s` and `x_lazytower`.
"""

import argparse
import itertools
import time
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

import numpy as np
from absl import logging

from configs.errors import UserError
from trainer.bench.cases.ranked_model import RankedModel, ranked_gigabytes, ranked_weights
from trainer.bench.parts.ranked_steps import make_ranking, ranked_model, reason_of
from trainer.bench.parts.rows import KILLED
from trainer.bench.parts.turns import OURS, load_libraries
from trainer.bench.timing import WARMUP_STEPS, in_fresh_process, need_memory
from trainer.resources.machine import peak_resident

if TYPE_CHECKING:
    from configs.manifest import Dataset
    from configs.schema import RunConfig


def measure_epochs(args: argparse.Namespace) -> list[dict]:
    """Rows of EPOCH_COLUMNS, one for each optimizer and library; those without figures have a reason.

    Raises:
      UserError: the model of the flags cannot be made of the run's features, or its dataset is too small.
      ConfigError, DataError: the run or its dataset cannot be read.
    """
    from configs.load import load_config
    from configs.manifest import load_dataset

    config = load_config(args.config, args.overrides)
    rows, numbers = epoch_inputs(config, load_dataset(config.dataset.path))
    found = []
    for optimizer in args.optimizers:
        model = ranked_model(args, rows, optimizer, numbers)
        results = {name: _in_process(name, model, args) for name in args.peers}
        ours = results.get(OURS, {}).get("rows_per_s")
        known = {"interaction": args.interaction, "optimizer": optimizer, "batch": config.train.batch_size}
        for name, result in results.items():
            if ours and "rows_per_s" in result:
                result["x_lazytower"] = round(ours / result["rows_per_s"], 2)
            found.append(known | {"by": name} | result)
        logging.info("%s: measured", optimizer)
    return found


def epoch_inputs(config: "RunConfig", dataset: "Dataset") -> tuple[dict[str, int], list[str]]:
    """(rows of the table of each key, names of numbers) of a run of kind ranking.

    Raises:
      UserError: the run has inputs that not all libraries' models read.
    """
    if config.model.family != "ranking":
        raise UserError(f"--config: model.kind is {config.model.kind}; name a run of kind ranking")
    tables = config.table_of_input
    rows = {name: dataset.table_rows(tables[name]) for name in sorted(tables)}
    numbers = [name for name in config.model.inputs if name not in tables]
    wide = [name for name in tables if config.length_of(name)]
    wide += [name for name in numbers if config.input_width(name) > 1]
    if wide:
        raise UserError(
            f"--config: {', '.join(wide)} is a list or vector, which this benchmark does not read; leave it "
            "out with --set model.inputs=[...]"
        )
    if not rows or not numbers:
        raise UserError("--config: the model needs a key and a number; add them to model.inputs")
    return rows, numbers


def _in_process(name: str, model: RankedModel, args: argparse.Namespace) -> dict:
    try:
        return in_fresh_process(_measure, name, model, args)
    except BrokenProcessPool:
        return {"reason": KILLED}


def _measure(name: str, model: RankedModel, args: argparse.Namespace) -> dict:
    """Figures of EPOCH_COLUMNS, or the reason."""
    import psutil

    load_libraries(args.threads)
    batches, steps, size = _epoch(args)
    before = psutil.Process().memory_info().rss
    try:
        need_memory(ranked_gigabytes(model, size) + 1)
        case = make_ranking(name, model, ranked_weights(model), args.threads)
        marks, losses = [time.perf_counter()], []
        for batch in batches:
            losses.append(case.step(case.inputs(batch)))
            marks.append(time.perf_counter())
    except Exception as error:  # a broken peer must not stop the others
        return {"reason": reason_of(error)}
    return {
        "steps": steps,
        "seconds": round(marks[-1] - marks[0], 2),
        "rows_per_s": round((steps - WARMUP_STEPS) * size / (marks[-1] - marks[WARMUP_STEPS])),
        "memory_mb": round((peak_resident() - before) / 1e6),
        "loss": f"{np.mean(losses):.6f}",
        "reason": "",
    }


def _epoch(args: argparse.Namespace):
    """(batches of NumPy arrays, number of batches, rows of a batch) of the run's first epoch."""
    from configs.load import load_config
    from configs.manifest import load_dataset
    from trainer.data.catalog import Items
    from trainer.training.build import train_data

    config = load_config(args.config, args.overrides)
    dataset = load_dataset(config.dataset.path)
    data = train_data(config, dataset, Items.load(dataset))
    steps = data.steps_per_epoch
    if steps <= WARMUP_STEPS:
        raise UserError(
            f"--config: an epoch has {steps} steps, and more than {WARMUP_STEPS} are needed; lower "
            "train.batch_size"
        )
    return itertools.islice(data.batches(0).as_numpy_iterator(), steps), steps, config.train.batch_size
