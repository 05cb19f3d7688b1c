"""A whole training run, from its config to its report."""

import contextlib
import resource
import time

from absl import logging

from configs.sections.devices import ClusterDeviceConfig
from trainer.runtime import start_tensorflow
from trainer.training.interrupt import Interrupt


def train(config, interrupt: Interrupt | None = None) -> str:
    """Trains to the configured end, from the newest checkpoint if there is one.

    Args:
      config: configs.schema.RunConfig.
      interrupt: may stop the run early; None: SIGTERM and SIGINT do, in the main thread.

    Returns:
      Path of the report.

    Raises:
      Stopped: a signal or the time limit ended it early; all steps done are saved.
      DataError: the dataset is missing, damaged, or prepared with another config.
      CheckpointError: the run directory holds checkpoints of another run, or none that verifies.
      HostLost: a host of the cluster is gone; what is saved can be resumed.
    """
    if interrupt is None:
        with Interrupt() as interrupt:
            return train(config, interrupt)
    from trainer.training.session import TrainSession

    logging.info("run %s: dataset %s, output %s", config.name, config.dataset.path, config.output.path)
    started = time.monotonic()
    with _losses(config), TrainSession(config, interrupt) as session:
        session.run()
    logging.info(
        "done in %.0f s, peak memory %.2f GB; report: %s",
        time.monotonic() - started,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        session.report_path,
    )
    return session.report_path


def _losses(config):
    """Names the host in errors of a cluster."""
    if not isinstance(config.device, ClusterDeviceConfig):
        return contextlib.nullcontext()
    start_tensorflow(config.device)  # before it is imported
    from trainer.cluster.failures import host_losses

    return host_losses(config.device)
