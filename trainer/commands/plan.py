"""`lazytower plan`: forecasts memory, disk and time of a run, and which TPU slices hold its tables."""

import argparse
import json

from configs.arguments import add_config_arguments
from configs.errors import UserError
from configs.load import load_config
from configs.system.tpu import common_slices, tpu_slice
from trainer.preflight.plan import find_problems, make_plan
from trainer.preflight.plan_text import format_plan


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--probe_steps",
        type=_count,
        default=20,
        metavar="N",
        help="steps to time, after as many of warm-up; 0: none",
    )
    parser.add_argument(
        "--tpu",
        action="append",
        default=[],
        metavar="SLICE",
        help="TPU slice, such as v5p-8, that must hold the tables instead of this machine; repeatable; "
        "all: show every slice, require none",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; use 0 or more")
    return value


def run(args) -> int:
    """Prints the plan, then fails if something cannot fit. The run's own slice must hold the tables."""
    config = load_config(args.config, args.overrides)
    named = {name for name in args.tpu if name != "all"}
    own = {config.device.slice} if config.device.kind == "tpu" else set()
    slices = [tpu_slice(name) for name in sorted(own | named)]
    slices += common_slices() if "all" in args.tpu else []
    plan = make_plan(config, slices, args.probe_steps)
    problems = find_problems(config, plan, named)
    print(json.dumps(plan | {"problems": problems}, indent=1) if args.json else format_plan(plan))
    if problems:
        raise UserError("; ".join(problems))
    return 0
