"""`lazytower plan`: forecasts memory, disk and time of a run, and which TPU slices hold its tables.

With `--what score`, it forecasts `lazytower score --what topk` for all users with the run's newest export.
"""

import argparse
import json

from configs.arguments import add_config_arguments
from configs.errors import ConfigError, UserError
from configs.load import load_config
from configs.system.tpu import common_slices, tpu_slice
from trainer.batch.formats import FORMATS
from trainer.preflight.plan import find_problems, make_plan
from trainer.preflight.plan_text import format_plan, format_score_plan


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument(
        "--probe_steps",
        type=_count,
        metavar="N",
        help="steps to time, after as many of warm-up; 0: none (default: 20)",
    )
    parser.add_argument(
        "--tpu",
        action="append",
        default=[],
        metavar="SLICE",
        help="TPU slice, such as v5p-8, that must hold the tables instead of this machine; repeatable; "
        "all: show every slice, require none",
    )
    parser.add_argument("--what", choices=["train", "score"], default="train", help="(default: train)")
    parser.add_argument("--k", type=int, help="score: items per user (default: 10)")
    parser.add_argument("--format", choices=list(FORMATS), help="score: of the files (default: parquet)")
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
    if args.what == "score":
        return _plan_score(args)
    for name in ("k", "format"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name}: is for --what score; remove it")
    config = load_config(args.config, args.overrides)
    named = {name for name in args.tpu if name != "all"}
    own = {config.device.slice} if config.device.kind == "tpu" else set()
    slices = [tpu_slice(name) for name in sorted(own | named)]
    slices += common_slices() if "all" in args.tpu else []
    plan = make_plan(config, slices, 20 if args.probe_steps is None else args.probe_steps)
    problems = find_problems(config, plan, named)
    print(json.dumps(plan | {"problems": problems}, indent=1) if args.json else format_plan(plan))
    if problems:
        raise UserError("; ".join(problems))
    return 0


def _plan_score(args) -> int:
    """Prints the plan of an output."""
    from trainer.batch.forecast import make_score_plan

    if args.tpu or args.probe_steps is not None:
        name = "tpu" if args.tpu else "probe_steps"
        raise ConfigError(f"--{name}: is for --what train; remove it")
    config = load_config(args.config, args.overrides)
    plan = make_score_plan(config, 10 if args.k is None else args.k, args.format or "parquet")
    print(json.dumps(plan, indent=1) if args.json else format_score_plan(plan))
    return 0
