"""The config of one day: that of the daily job, with the day's files, places, base and source of weights."""

import datetime
import re

from configs.errors import ConfigError
from configs.load import parse_config
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.sections.sources import FileSourceConfig
from configs.system.terminal import shown
from trainer.daily.record import PENDING, DayFolder
from trainer.data.train_rows import DAY

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_daily(config: RunConfig, name: str | None) -> None:
    """Raises ConfigError if days cannot be made of this config.

    Args:
      config: of the daily job.
      name: of the day, if the user gave one.
    """
    if name is not None and (name == PENDING or not _NAME.fullmatch(name)):
        raise ConfigError(
            f"--name {shown(name)}: use letters, digits, _, - and dots, but no dot at the beginning, and not "
            f"the name {PENDING}"
        )
    if not isinstance(config.source, FileSourceConfig):
        raise ConfigError(
            f"source.kind: {config.source.kind} reads no files, and a day consists of some; use a kind that "
            "reads files"
        )
    if name is None and config.source.roles.timestamp is None:
        raise ConfigError(
            "without source.roles.timestamp the rows do not say which day it is; name it with --name"
        )


def day_config(config: RunConfig, day: DayFolder, dataset: Dataset | None) -> RunConfig:
    """The config of a day; it names nothing of the daily job's own dataset and run but the export directory.

    Args:
      config: of the daily job.
      day: its record says on what it stands and what it starts from.
      dataset: the day's, once it is prepared.

    Raises:
      ConfigError: the parts do not fit.
      DataError: the dataset that the served model was trained on is gone.
    """
    document = config.model_dump(mode="json")
    record = day.record
    document["name"] = f"{config.name}-{day.name}"
    document["source"]["paths"] = record.files
    document["dataset"] |= {"path": day.dataset, "base": record.base}
    document["output"] = {"path": day.run}
    document["export"]["path"] = config.export_path
    document["init"] = None
    if record.source_run is not None:
        init = config.init.model_dump(mode="json") if config.init else {}
        document["init"] = init | {"from": record.source_run}
    if (days := _missed_days(config, record.source_dataset, dataset)) is not None:
        document["train"]["window_days"] = days
    return parse_config(document, day.config)


def _missed_days(config: RunConfig, source_dataset: str | None, dataset: Dataset | None) -> float | None:
    """train.window_days that covers all rows newer than those that the served model was trained on; None: the
    default does, or the config has a window."""
    if source_dataset is None or dataset is None or config.train.window_days is not None:
        return None
    before = load_dataset(source_dataset).splits["train"].max_timestamp
    newest = dataset.splits["train"].max_timestamp
    if config.source.roles.timestamp is None or before is None or newest is None or newest <= before:
        return None
    return (newest - before) / DAY


def newest_date(dataset: Dataset) -> str:
    """Date of the newest row, UTC: 2026-11-25."""
    times = [info.max_timestamp for info in dataset.splits.values() if info.max_timestamp is not None]
    moment = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=max(times) // 1000)
    return f"{moment:%Y-%m-%d}"


def compared_split(dataset: Dataset) -> str:
    """The split of the newest rows: test, on which nothing of a run is decided, or else valid.

    Raises:
      ConfigError: both are empty.
    """
    for name in ("test", "valid"):
        if dataset.splits[name].rows:
            return name
    raise ConfigError(
        f"{dataset.path}: test and valid are empty, so the new model cannot be compared with the served one; "
        "change dataset.split"
    )
