"""Deletes what no kept day needs: runs, exported versions, and datasets on which no kept day stands."""

import os

from absl import logging

from configs.chain import load_chain
from configs.manifest import MANIFEST_FILE, load_dataset
from configs.system import storage
from trainer.daily.record import DayFolder
from trainer.serving.versions import remove_version, versions


def prune_days(days: list[DayFolder], keep: int, exports: str) -> None:
    """Deletes runs, datasets and versions of old days; their day.json stays.

    Kept are the newest `keep` days, the run whose model is served, all datasets below those of kept days, and
    the newest version. Nothing is deleted if a dataset of a kept day cannot be opened.

    Args:
      days: all days in order.
      exports: directory of exported versions.

    Raises:
      DataError: a chain of a kept day is broken.
      ExportError: another export is running.
    """
    served = [day for day in days if day.record.version is not None][-1:]
    kept = {day.name: day for day in [*days[-keep:], *served]}
    needed = {
        _place(dataset.path) for day in kept.values() for dataset in load_chain(load_dataset(day.dataset))
    }
    newest = max(versions(exports), default=None)
    for day in days:
        if day.name in kept:
            continue
        if storage.exists(day.run):
            logging.info("day %s: removing its run", day.name)
            storage.remove(day.run)
        version = day.record.version
        if version is not None and version != newest:
            remove_version(exports, version)
        if _place(day.dataset) not in needed and storage.exists(day.dataset):
            logging.info("day %s: removing its dataset, on which no kept day stands", day.name)
            storage.remove(storage.join(day.dataset, MANIFEST_FILE))  # first: without it there is none
            storage.remove(day.dataset)


def _place(path: str) -> str:
    """The same text for all names of a directory."""
    return path.rstrip("/") if storage.is_remote(path) else os.path.realpath(storage.filesystem(path)[1])
