"""`lazytower checkpoints`: lists and verifies a run's checkpoints, or merges increments into a full one."""

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging

from configs.errors import CheckpointError
from configs.load import load_config
from configs.storage import join
from trainer.checkpoint_chain import (
    LOOKS,
    Checkpoint,
    CheckpointDirectory,
    directory_name,
    needed_files,
    prune,
    table_width,
)
from trainer.checkpoint_files import (
    DamagedCheckpoint,
    Piece,
    errors_of,
    in_flight,
    read_dense,
    verify_file,
    write_checkpoint,
)

_COLUMNS = ("step", "kind", "base", "bytes", "files", "time", "status")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    parser.add_argument("run", metavar="RUN", help="run directory, the config's output.path")
    parser.add_argument(
        "--compact",
        action="store_true",
        help="merge the newest checkpoint and its increments into a full one",
    )


def run(args) -> int:
    """Prints the list, after compaction if asked for; 1 when the newest checkpoint does not verify."""
    directory = join(args.run, "checkpoints")
    if not CheckpointDirectory(directory).names:
        raise CheckpointError(f"{directory}: no checkpoints; is {args.run} the output.path of a run?")
    if args.compact:
        with _locked(args.run) as lock:
            compact(args.run, directory, lock.check)
    rows = listed(directory)
    print(_table(rows))
    best = next((row["step"] for row in rows[::-1] if row["status"] == "verified"), None)
    complete = [row["step"] for row in rows if row["status"] != "incomplete"]
    if complete and best == complete[-1]:
        return 0
    print("no checkpoint verifies" if best is None else f"a restart would resume from step {best}")
    return 1


def listed(directory: str) -> list[dict]:
    """Facts about every checkpoint directory, oldest step first; reads every file once.

    Returns:
      Dicts of step, kind, base, bytes, files, time (unix seconds) and status: verified, incomplete, or
      damaged with the file and the reason. An increment is verified when all that it builds on is.
    """
    for _ in range(LOOKS):
        found = CheckpointDirectory(directory)
        rows = _facts(found)
        # A trainer beside us deletes old ones and writes new ones.
        if all(row["status"] == "verified" for row in rows) or not found.has_changed():
            break
    return rows


def _facts(found: CheckpointDirectory) -> list[dict]:
    rows, checked = [], {}
    for step, names in found.names.items():
        for name in names:
            row = {"step": step, "kind": "increment" if name.endswith(".increment") else "full"}
            if not found.is_complete(name):
                rows.append(row | {"status": "incomplete"})
                continue
            try:
                checkpoint = found.open(name)
            except DamagedCheckpoint as error:
                rows.append(row | {"status": f"damaged: {error}"})
                continue
            facts = {"bytes": checkpoint.bytes, "files": len(checkpoint.manifest["files"])}
            facts |= {
                "base": (checkpoint.manifest["base"] or {}).get("step"),
                "time": checkpoint.manifest["time"],
            }
            rows.append(row | facts | {"status": _status(found, checkpoint, checked)})
    return rows


def _status(found: CheckpointDirectory, checkpoint: Checkpoint, checked: dict) -> str:
    """verified, or damaged and why; `checked` remembers the reason, or None, of every file read."""
    reasons = []
    for chain in found.chains(checkpoint.step, checkpoint.manifest["id"]):
        if isinstance(chain, DamagedCheckpoint):
            reasons.append(chain)
        elif chain[-1] is checkpoint:
            reason = next(
                filter(None, (_damage(c, f, checked) for c, fs in needed_files(chain) for f in fs)), 0
            )
            if not reason:
                return "verified"
            reasons.append(reason)
    return f"damaged: {reasons[0]}"


def _damage(checkpoint: Checkpoint, name: str, checked: dict) -> DamagedCheckpoint | None:
    key = (checkpoint.name, name)
    if key not in checked:
        try:
            verify_file(checkpoint.path, checkpoint.manifest, name)
            checked[key] = None
        except DamagedCheckpoint as error:
            checked[key] = error
    return checked[key]


def compact(run_directory: str, directory: str, check: Callable[[], None] = lambda: None) -> str | None:
    """Writes the newest restorable step as a full checkpoint, then deletes what `checkpoint.keep` lets go.

    Chunk by chunk, by NumPy alone. Killed at any point, it leaves the increments, a restorable run: the full
    checkpoint counts when its COMMITTED is there, and only then are increments deleted.

    Args:
      run_directory: with config.yaml, which says how many steps are kept.
      directory: of its checkpoints.
      check: raises when the run is no longer held by this process.

    Returns:
      Path of the full checkpoint; None when the newest is one already.

    Raises:
      CheckpointError: no checkpoint verifies, or the full one cannot be written.
    """
    keep = load_config(join(run_directory, "config.yaml")).checkpoint.keep
    found = CheckpointDirectory(directory)
    for step in found.steps()[::-1]:
        for chain in found.chains(step):
            try:
                if isinstance(chain, DamagedCheckpoint):
                    raise chain
                path = _compacted(directory, chain, keep, check)
            except DamagedCheckpoint as error:
                logging.warning("step %d: %s; trying the checkpoint before it", step, error)
                continue
            return path
    raise CheckpointError(f"{directory}: no checkpoint verifies, there is nothing to compact")


def _compacted(directory: str, chain: list[Checkpoint], keep: int, check) -> str | None:
    """Writes the full checkpoint of a chain. Raises DamagedCheckpoint before anything is written."""
    from trainer.checkpoint_rows import StoredRows

    newest, started = chain[-1], time.monotonic()
    if len(chain) == 1:
        for name in newest.manifest["files"]:
            verify_file(newest.path, newest.manifest, name)
        logging.info("step %d: is a full checkpoint already", newest.step)
        return None
    dense = read_dense(newest.path, newest.manifest)
    rows = {name: StoredRows(chain, name) for name in newest.manifest["tables"]}
    layouts = chain[0].manifest["tables"]
    keys = ("step", "id", "identity")
    head = {key: newest.manifest[key] for key in keys} | {"kind": "full", "base": None, "tables": layouts}
    path = join(directory, directory_name(newest.step, "full"))
    sizes = [4 * table_width(layout) * max(layout["pieces"], default=0) for layout in layouts.values()]
    most = in_flight(max(sizes, default=0))
    written = Checkpoint(path, write_checkpoint(path, head, _pieces(rows, layouts), dense, most, check))
    with errors_of(directory, "cleaned"):
        removed = prune(directory, [written], keep, check=check)
    logging.info(
        "step %d: %d checkpoints merged into %s, %.1f MB, %.1f s; removed: %s",
        *(newest.step, len(chain), path, written.bytes / 1e6, time.monotonic() - started),
        ", ".join(removed) or "nothing",
    )
    return path


def _pieces(rows: dict, layouts: dict) -> Iterator[Piece]:
    for name, layout in layouts.items():
        start = 0
        for number, size in enumerate(layout["pieces"]):
            records = rows[name].read(np.arange(start, start + size, dtype=np.int64))
            yield Piece(name, number, None, records)
            start += size


def _locked(run_directory: str):
    """Holds the run against trainers, as a trainer does. Raises UserError when one is at work."""
    from trainer.session import lock_run

    return contextlib.closing(lock_run(run_directory))


def _table(rows: list[dict]) -> str:
    """The list as text, sizes in MB and times in UTC."""
    lines = [_COLUMNS]
    for row in rows:
        size = f"{row['bytes'] / 1e6:,.1f} MB" if "bytes" in row else "-"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["time"])) if "time" in row else "-"
        base = "-" if row.get("base") is None else str(row["base"])
        lines.append(
            (str(row["step"]), row["kind"], base, size, str(row.get("files", "-")), stamp, row["status"])
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS) - 1)]
    return "\n".join("  ".join([*map(str.rjust, line, widths), line[-1]]) for line in lines)
