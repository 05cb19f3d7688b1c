"""`lazytower day`: one day after the other, stage by stage; each stage may be repeated after any failure."""

import json
import os
from collections.abc import Sequence
from typing import Any

from absl import logging

from configs.dataset_parts import TableInfo
from configs.errors import ConfigError, UserError
from configs.load import dump_config
from configs.manifest import Dataset, load_dataset
from configs.schema import RunConfig
from configs.system import storage
from trainer.daily.children import Children
from trainer.daily.day_config import check_daily, compared_split, day_config, newest_date
from trainer.daily.decision import compared_figure, day_metric, decide
from trainer.daily.pruning import prune_days
from trainer.daily.record import DayFolder, DayRecord, days_path, read_days
from trainer.daily.status import result_text
from trainer.run_lock import Lock, lock_job
from trainer.serving.client import version_facts
from trainer.serving.versions import versions


def run_day(config: RunConfig, files: Sequence[str], name: str | None = None) -> DayRecord:
    """Makes a day of new files: prepares, trains, compares, exports; first ends a day that was interrupted.

    Args:
      config: of the daily job.
      files: the day's source files, or patterns.
      name: of the day; None: the date of its newest row.

    Returns:
      The record of the day, which may have been done before.

    Raises:
      UserError: a stage failed, another process runs a day, or the day's name is taken.
      Stopped: a signal ended it. After either, the same command continues.
    """
    check_daily(config, name)
    day_metric(config)
    directory = days_path(config)
    if name is None and storage.is_remote(directory):
        raise ConfigError(
            f"day.path: {directory} is in an object store, which cannot rename directories; name the day "
            "with --name"
        )
    lock = lock_job(directory, "day.path", "a day")
    try:
        with Children(lock) as children:
            job = _DayJob(config, directory, lock, children)
            return job.run(list(files), name)
    finally:
        lock.close()


class _DayJob:
    """The days of one config.

    Args:
      config: of the daily job.
      directory: of all days, which is locked.
      lock: of the directory.
      children: runs the stages.
    """

    def __init__(self, config: RunConfig, directory: str, lock: Lock, children: Children):
        self._config, self._directory, self._lock, self._children = config, directory, lock, children

    def run(self, files: list[str], name: str | None) -> DayRecord:
        """As run_day."""
        days = read_days(self._directory)
        mine = next((day for day in days if _same_files(day.record.files, files)), None)
        for day in days:
            if not day.record.is_done:
                self._finish(day, name if day is mine else None, is_mine=day is mine)
        if mine is None:
            if name is not None and name in [day.name for day in days]:
                raise UserError(
                    f"{storage.join(self._directory, name)}: there is a day of this name, of other files; "
                    "choose another --name"
                )
            mine = self._begun(days, files, name)
            self._finish(mine, name, is_mine=True)
        elif name not in (None, mine.name):
            raise UserError(
                f"--name {name}: these files are the day {mine.name} already; leave the flag out, or pass "
                "the new day's files"
            )
        return mine.record

    def _begun(self, days: list[DayFolder], files: list[str], name: str | None) -> DayFolder:
        """A new day, on the dataset of the day before, starting from the run of the served model."""
        config, before = self._config, days[-1:]
        served = [day for day in days if day.record.version is not None][-1:]
        init = config.init.from_ if config.init else None
        record = DayRecord(
            number=1 + max((day.record.number for day in days), default=0),
            name=name,
            files=files,
            base=before[0].dataset if before else config.dataset.base,
            source_run=served[0].run if served else init,
            source_dataset=served[0].dataset if served and served != before else None,
        )
        day = DayFolder(self._directory, record, is_pending=name is None)
        day.write()
        return day

    def _finish(self, day: DayFolder, name: str | None, is_mine: bool) -> None:
        """Runs the stages that are left."""
        if name is not None and day.is_pending:
            day.write(name=name)
        if not is_mine:
            logging.info("day %s was interrupted and is continued first", day.name)
        try:
            day.settle()
            for stage in day.record.left:
                logging.info("day %s: to be %s", day.name, stage)
                changes = _RUN[stage](self, day)
                self._lock.check()
                day.write(done=stage, **changes)
                day.settle()
        except UserError as error:
            other = "" if is_mine else f". To leave this day out, delete {day.path}"
            raise type(error)(f"day {day.name}: {error}{other}") from None
        if day.record.reason:
            log = logging.info if day.record.accepted else logging.warning
            log("day %s: %s: %s", day.name, result_text(day.record), day.record.reason)

    def _prepared(self, day: DayFolder) -> dict[str, Any]:
        self._write_config(day, None)
        self._children.run("prepare", "--config", day.config)
        dataset = load_dataset(day.dataset)
        rows = {name: info.rows for name, info in dataset.splits.items()}
        name = day.record.name or newest_date(dataset)
        return {"name": name, "rows": rows, "new": _new_keys(dataset)}

    def _trained(self, day: DayFolder) -> dict[str, Any]:
        # Again: the day has its name now, and its rows say from which on it trains.
        self._write_config(day, load_dataset(day.dataset))
        self._children.run("train", "--config", day.config)
        return {}

    def _evaluated(self, day: DayFolder) -> dict[str, Any]:
        config = self._write_config(day, load_dataset(day.dataset))
        split, (metric, _) = compared_split(load_dataset(day.dataset)), day_metric(config)
        self._children.run("evaluate", "--config", day.config, "--split", split)
        value, protocol = compared_figure(config, _lines(day, f"evaluate-{split}.json"), metric)
        found = {"split": split, "metric": metric, "protocol": protocol, "value": value}
        if config.init is None:
            return found
        weights = f"init.weights={config.export.weights}"
        self._children.run(
            *("evaluate", "--config", day.config, "--split", split, "--start", "--set", weights)
        )
        served, _ = compared_figure(config, _lines(day, f"evaluate-{split}-start.json"), metric)
        return found | {"served_value": served}

    def _decided(self, day: DayFolder) -> dict[str, Any]:
        record, (metric, higher) = day.record, day_metric(self._config)
        if metric != record.metric:
            raise ConfigError(
                f"day.metric is {metric} now, but the models were compared by {record.metric}; restore it"
            )
        is_first = record.source_run is None
        tolerance = self._config.day.tolerance
        found = decide(metric, higher, record.value, record.served_value, tolerance, is_first)
        return {"accepted": found.accepted, "reason": found.reason}

    def _exported(self, day: DayFolder) -> dict[str, Any]:
        if not day.record.accepted:
            return {}
        config = self._write_config(day, load_dataset(day.dataset))
        if (version := _version_of(config)) is None:
            self._children.run("export", "--config", day.config)
            version = _version_of(config)
        if version is None:
            raise UserError(
                f"{config.export_path}: the exported version is gone; leave this directory to `lazytower "
                "day`, and rerun the same command"
            )
        return {"version": version}

    def _pruned(self, day: DayFolder) -> dict[str, Any]:
        prune_days(read_days(self._directory), self._config.day.keep, self._config.export_path.rstrip("/"))
        return {}

    def _write_config(self, day: DayFolder, dataset: Dataset | None) -> RunConfig:
        self._lock.check()
        config = day_config(self._config, day, dataset)
        storage.write_bytes(day.config, dump_config(config).encode())
        return config


_RUN = {
    "prepared": _DayJob._prepared,
    "trained": _DayJob._trained,
    "evaluated": _DayJob._evaluated,
    "decided": _DayJob._decided,
    "exported": _DayJob._exported,
    "pruned": _DayJob._pruned,
}


def _same_files(one: list[str], other: list[str]) -> bool:
    return sorted(map(_full, one)) == sorted(map(_full, other))


def _full(name: str) -> str:
    return name if storage.is_remote(name) else os.path.abspath(name.removeprefix("file://"))


def _new_keys(dataset: Dataset) -> dict[str, int]:
    """Users and items that have a row of their own here and none in the base; with hashed ids all have."""
    tables = {name: dataset.tables[name] for name in ("user", "item") if name in dataset.tables}
    return {name: _new_rows(table) for name, table in tables.items() if table.oov is not None}


def _new_rows(table: TableInfo) -> int:
    """As the report of prepare; given ids have no base."""
    return table.keys - ((table.base_oov or 0) - table.left)


def _lines(day: DayFolder, name: str) -> list[dict[str, Any]]:
    """What `lazytower evaluate` wrote."""
    results: list[dict[str, Any]] = json.loads(storage.read_bytes(storage.join(day.run, name)))["results"]
    return results


def _version_of(config: RunConfig) -> int | None:
    """The newest exported version of a day's run; None: there is none."""
    fingerprint = load_dataset(config.dataset.path).fingerprint
    for number in versions(config.export_path)[::-1]:
        facts = version_facts(storage.join(config.export_path, str(number)))
        if (facts.get("name"), facts.get("dataset_fingerprint")) == (config.name, fingerprint):
            return number
    return None
