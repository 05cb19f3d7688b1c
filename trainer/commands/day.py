"""`lazytower day`: the daily job; see trainer/daily/job.py.

lazytower day --config shop.yaml --new events/2026-11-25/*.parquet
"""

import argparse
import json

from configs.arguments import add_config_arguments
from configs.load import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--new", nargs="+", metavar="FILE", help="files of the new day, in place of source.paths; or patterns"
    )
    action.add_argument("--status", action="store_true", help="print a table of all days, and change nothing")
    parser.add_argument(
        "--name", metavar="NAME", help="name of the new day (default: the date of its newest row, UTC)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Makes the day and prints what became of it; a refused day is no error."""
    from trainer.daily.job import run_day
    from trainer.daily.record import days_path, read_days
    from trainer.daily.status import status_text, status_values

    config = load_config(args.config, args.overrides)
    if args.status:
        days = read_days(days_path(config))
        print(json.dumps(status_values(days), indent=1) if args.json else status_text(days))
        return 0
    record = run_day(config, args.new, args.name)
    days = [day for day in read_days(days_path(config)) if day.record == record]
    print(json.dumps(status_values(days)[0], indent=1) if args.json else status_text(days))
    return 0
