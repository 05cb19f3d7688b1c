"""`lazytower checkpoints`: lists and verifies a run's checkpoints, or merges increments into a full one."""

import argparse
import contextlib
import time

from configs.errors import CheckpointError
from configs.system.storage import join
from configs.text import aligned
from trainer.checkpoints.best import best_facts
from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.compact import compact
from trainer.checkpoints.listing import listed

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
    """Prints the list, after compaction if requested; 1 when the newest checkpoint does not verify."""
    directory = join(args.run, "checkpoints")
    if not CheckpointDirectory(directory).names:
        raise CheckpointError(f"{directory}: no checkpoints; is {args.run} the output.path of a run?")
    if args.compact:
        with _locked(args.run) as lock:
            compact(args.run, directory, lock.check)
    rows = listed(directory)
    print(_table(rows))
    if (facts := best_facts(directory)) is not None:
        print(f"best: step {facts['step']}, {facts['metric']} {facts['value']:.4f} on valid")
    last = next((row["step"] for row in rows[::-1] if row["status"] == "verified"), None)
    complete = [row["step"] for row in rows if row["status"] != "incomplete"]
    if complete and last == complete[-1]:
        return 0
    print("no checkpoint verifies" if last is None else f"a restart would resume from step {last}")
    return 1


def _locked(run_directory: str):
    """Locks the run against trainers, as a trainer does. Raises UserError: one is running."""
    from trainer.training.run_directory import lock_run

    return contextlib.closing(lock_run(run_directory))


def _table(rows: list[dict]) -> str:
    """The list as text, sizes in MB and times in UTC."""
    lines = [_COLUMNS]
    for row in rows:
        size = f"{row['bytes'] / 1e6:,.1f} MB" if "bytes" in row else "-"
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(row["time"])) if "time" in row else "-"
        base = "-" if row.get("base") is None else str(row["base"])
        step = f"{row['step']} *" if row["best"] else str(row["step"])
        lines.append(
            (
                step,
                row["kind"],
                base,
                size,
                str(row.get("files", "-")),
                stamp,
                row["status"],
            )
        )
    return aligned(lines, left=(-1,))
