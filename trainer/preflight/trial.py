"""Times real steps of a run: its model, dataset and production loop, without a run directory."""

import time

from absl import logging

from configs.manifest import Dataset
from configs.schema import RunConfig


def probe(config: RunConfig, dataset: Dataset, steps: int) -> float:
    """Seconds per step over `steps` steps, after as many of warm-up.

    Raises:
      DataError: the dataset does not match the config, or cannot be read.
    """
    from trainer.runtime import start_tensorflow

    start_tensorflow(config.device)
    from trainer.training.build import build_training
    from trainer.training.loop import Every, Loop

    training = build_training(config, dataset)
    training.recommender.initialize()
    training.step.send_rows()
    logging.info("timing %d steps, after as many of warm-up", steps)
    loop = Loop(training.step, training.step.batches(training.data, 0), 2 * steps, steps)
    times = {}
    loop.run(
        lambda *_: None,
        [Every(steps, lambda step: times.update({step: time.monotonic()}))],
        lambda step: logging.warning("step %d: its loss or a gradient is not finite", step),
    )
    return (times[2 * steps] - times[steps]) / steps
