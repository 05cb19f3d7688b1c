"""Part `prepare` of `bench peers`: `lazytower bench prepare` in a process of its own, and its ratios.

lazytower's prepare runs on Beam's in-process runner. Ratios are to lazytower reading the CSV file that polars
reads.
"""

import argparse
import csv
import os
import subprocess
import tempfile

from configs.errors import UserError
from configs.system.processes import module_command
from trainer.bench.timing import positive

COLUMNS = ("case", "rows", "seconds", "x_lazytower", "cpu_seconds", "peak_mb", "x_memory")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the part."""
    parser.add_argument("--prepare_rows", type=positive, default=5_000_000, help="interactions to prepare")


def measure(args: argparse.Namespace) -> list[dict]:
    """Rows of COLUMNS.

    Raises:
      UserError: the benchmark fails, after printing the reason.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "prepare.csv")
        command = module_command("trainer.cli", "bench", "prepare", "--csv", path)
        command += ["--rows", str(args.prepare_rows), "--repeats", str(args.turns)]
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
            raise UserError("bench prepare failed; leave `prepare` out of --parts to measure the others")
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    ours = next(row for row in rows if row["case"] == "lazytower prepare, CSV")
    for row in rows:
        row["x_lazytower"] = f"{float(row['seconds']) / float(ours['seconds']):.2f}"
        row["x_memory"] = f"{int(row['peak_mb']) / int(ours['peak_mb']):.2f}"
    return rows
