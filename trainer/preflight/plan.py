"""The plan of a run: memory, disk, time and TPU slices, and what does not fit."""

import os
import shutil
from typing import Any

from configs.manifest import MANIFEST_FILE, Dataset, load_dataset
from configs.schema import RunConfig
from configs.sections.devices import ClusterDeviceConfig
from configs.system.storage import exists, is_remote, join
from configs.system.tpu import Slice
from configs.text import size_text
from trainer.resources import forecast, machine
from trainer.resources.hosts import forecast_host, host_facts


def make_plan(config: RunConfig, slices: list[Slice], probe_steps: int) -> dict:
    """All figures, in bytes and seconds; None where unknown.

    Args:
      config: the run.
      slices: TPU slices to compare with.
      probe_steps: steps to time; skipped when there is too little memory.

    Raises:
      DataError: the dataset is not what the config asks for.
      CheckpointError, ConfigError: the run of init.from is not there, or does not fit.
      UserError: output.path cannot be written.
    """
    free, limit = machine.free_memory()  # before TensorFlow takes its share
    from trainer.runtime import start_tensorflow

    start_tensorflow(config.device)
    from trainer.data.checks import check_dataset
    from trainer.data.run_length import run_steps
    from trainer.data.train_rows import TrainRows
    from trainer.warm_start.start import checked_source

    dataset = _dataset(config)
    per_epoch = None
    if dataset is not None:
        check_dataset(config, dataset)
        per_epoch = TrainRows.of(config, dataset).steps_per_epoch(config.train.batch_size)
    started_from = checked_source(config, dataset)
    tables = forecast.forecast_tables(config, dataset)
    known = [table.total for table in tables if table.total is not None]
    complete = len(known) == len(tables)
    total = sum(known)
    hosts = _hosts(config, tables)
    peak = forecast.peak_bytes(config, total) if hosts is None else hosts["peak_bytes"]
    known_length = per_epoch or config.train.num_steps
    steps = run_steps(config, per_epoch or 0) if known_length else None
    seconds = None
    if dataset is not None and probe_steps and peak <= free and config.device.kind == "cpu":
        from trainer.preflight.trial import probe

        seconds = probe(config, dataset, probe_steps)
    return {
        "name": config.name,
        "dataset": config.dataset.path,
        "prepared": dataset is not None,
        "started_from": started_from or None,
        "tables": [_table(table) for table in tables],
        "complete": complete,
        "table_bytes": total,
        "hosts": hosts,
        "memory": {"peak_bytes": peak, "free_bytes": free, "limit": limit},
        "checkpoints": _checkpoints(config, total, steps),
        "steps": steps,
        "steps_per_epoch": per_epoch,
        "batch_size": config.train.batch_size,
        "step_seconds": seconds,
        "placement": _placement(tables, forecast.dense_bytes(config)),
        "slices": [_slice(slice_, tables, forecast.dense_bytes(config)) for slice_ in slices],
    }


def _dataset(config: RunConfig) -> Dataset | None:
    if not exists(join(config.dataset.path, MANIFEST_FILE)):
        return None
    return load_dataset(config.dataset.path)


def _hosts(config: RunConfig, tables: list[forecast.TableForecast]) -> dict | None:
    """What each host of a cluster needs; None without one, or if only its hosts know their number."""
    device = config.device
    count = device.known_count if isinstance(device, ClusterDeviceConfig) else None
    return None if count is None else host_facts(forecast_host(config, tables, count))


def _table(table: forecast.TableForecast) -> dict:
    names = ("name", "rows", "dim", "weight", "slots", "average", "last_step", "total", "placement")
    return {name: getattr(table, name) for name in names}


def _checkpoints(config: RunConfig, table_bytes: int, steps: int | None) -> dict:
    """Size, number and time of full checkpoints; disk figures are None in an object store."""
    size = table_bytes + forecast.dense_bytes(config)
    options = config.checkpoint
    # The oldest is deleted when the new one is complete. A full one with its increments counts as one.
    most = 2 + options.compact_at if options.incremental else options.keep + 1
    if config.evaluate.best is not None:  # with what it builds on, or what is averaged with it
        most += 1 + options.compact_at if options.incremental else max(config.polyak.tail, 1)
    facts: dict[str, Any] = {"bytes": size, "most": most, "number": None}
    facts |= {"existing_bytes": None, "free_bytes": None, "bytes_per_second": None, "seconds_each": None}
    if steps is not None:
        facts["number"] = -(-steps // config.checkpoint.every_steps)
    if not is_remote(config.output.path):
        parent = machine.existing_parent(config.output.path)
        facts["existing_bytes"] = machine.directory_bytes(os.path.join(config.output.path, "checkpoints"))
        facts["free_bytes"] = shutil.disk_usage(parent).free
        if facts["free_bytes"] > 2 * machine.PROBE_BYTES:
            facts["bytes_per_second"] = machine.disk_speed(parent)
            facts["seconds_each"] = size / facts["bytes_per_second"]
    return facts


def _placement(tables: list[forecast.TableForecast], dense: int) -> dict:
    """Names, rows and bytes (None if one is not known) of the tables by the place where a TPU keeps them, and
    the bytes of dense layers."""
    found: dict[str, Any] = {"dense_bytes": dense}
    for place in ("engine", "tensorcore"):
        group = [table for table in tables if table.placement == place]
        rows, sizes = [table.rows for table in group], [table.tpu for table in group]
        found[place] = {
            "tables": [table.name for table in group],
            "rows": None if None in rows else sum(filter(None, rows)),
            "bytes": None if None in sizes else sum(filter(None, sizes)),
        }
    return found


def _slice(slice_: Slice, tables: list[forecast.TableForecast], dense: int) -> dict:
    """A slice beside what it must hold, as forecast.slice_bytes."""
    facts = {"name": slice_.name, "chips": slice_.chips, "bytes_per_chip": slice_.bytes_per_chip}
    lacks = "; ".join(f"tables.{table.name}: {table.tpu_lacks}" for table in tables if table.tpu_lacks)
    if lacks:
        return facts | {"needed_per_chip": None, "fits": False, "reason": lacks}
    needed, complete = forecast.slice_bytes(tables, slice_, dense)
    fits = needed <= slice_.bytes_per_chip
    if fits and not complete:
        reason = "the known tables fit; the rows of others are not known yet"
        return facts | {"needed_per_chip": needed, "fits": None, "reason": reason}
    return facts | {"needed_per_chip": needed, "fits": fits, "reason": ""}


def find_problems(config: RunConfig, plan: dict, named: set[str]) -> list[str]:
    """What does not fit, a clause each. Tables for a TPU need not fit this machine's memory.

    Args:
      config: the run.
      plan: from make_plan.
      named: slices that must hold the tables for certain; on the config's own, tables may be unknown.
    """
    problems, memory, disk = [], plan["memory"], plan["checkpoints"]
    here = config.device.kind == "cpu"
    shared_disk = config.device.kind == "cluster"
    own = config.device.slice if config.device.kind == "tpu" else None
    if (hosts := plan["hosts"]) and hosts["peak_bytes"] > memory["free_bytes"]:
        problems.append(
            f"memory: each of {hosts['hosts']} hosts needs {size_text(hosts['peak_bytes'])}, "
            f"{size_text(memory['free_bytes'])} are free on this one ({memory['limit']}); use more hosts, "
            "or run `plan` on one of them"
        )
    if memory["peak_bytes"] > memory["free_bytes"] and here and not named:
        problems.append(
            f"memory: the run needs {size_text(memory['peak_bytes'])}, {size_text(memory['free_bytes'])} are "
            f"free ({memory['limit']}); use smaller tables, or compressed ones (kind: robe_z)"
        )
    if disk["free_bytes"] is not None and (here or shared_disk):
        wanted = disk["most"] * disk["bytes"] - disk["existing_bytes"]
        if wanted > disk["free_bytes"]:
            problems.append(
                f"disk: {disk['most']:g} full checkpoints need {size_text(wanted)} more, "
                f"{size_text(disk['free_bytes'])} are free at {config.output.path}; lower "
                "checkpoint.compact_at (or checkpoint.keep), or use another output.path"
            )
    for facts in plan["slices"]:
        name, fits = facts["name"], facts["fits"]
        if (name in named and not fits) or (name == own and fits is False):
            needed = f"{size_text(facts['needed_per_chip'])} on each chip, which has "
            needed += size_text(facts["bytes_per_chip"])
            verdict = "does not fit" if fits is False else "is not known to fit yet"
            problems.append(f"{name}: {verdict} ({facts['reason'] or needed})")
    return problems
