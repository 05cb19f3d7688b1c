"""`lazytower evaluate`: metrics of a checkpoint, or of what the run starts from, beside baselines."""

import json

from absl import logging

from configs.arguments import add_config_arguments, add_step_argument
from configs.errors import UserError
from configs.load import load_config
from configs.system.storage import join, make_directory, write_bytes
from configs.text import aligned
from trainer.evaluation.metrics import UNCUT
from trainer.evaluation.pointwise.text import format_predictions
from trainer.evaluation.scorer import evaluate_recommender
from trainer.evaluation.segments.text import lists_text, segment_texts
from trainer.report.findings import evaluation_findings


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_config_arguments(parser)
    parser.add_argument("--split", choices=["valid", "test"], default="test", help="split to predict")
    add_step_argument(parser)
    parser.add_argument(
        "--start",
        action="store_true",
        help="evaluate the weights of init.from on this run's dataset, instead of the run's own",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args) -> int:
    """Evaluates, prints a table, and writes the figures to the run directory and its report."""
    from trainer.evaluation.started import open_start
    from trainer.evaluation.trained import open_trained
    from trainer.report.metrics_file import MetricsWriter
    from trainer.report.statistics import write_run_report

    config = load_config(args.config, args.overrides)
    if args.start and args.step is not None:
        raise UserError(
            "--step chooses a checkpoint of this run, and --start evaluates another run; remove one"
        )
    trained = open_start(config) if args.start else open_trained(config, args.step)
    source = config.init.from_ if config.init else ""
    what = f"the weights of {source}" if args.start else f"step {trained.step} ({trained.chosen})"
    logging.info("evaluating %s on %s", what, args.split)
    lines = evaluate_recommender(
        trained.recommender, trained.dataset, trained.items, trained.step, args.split
    )
    name = f"evaluate-{args.split}{'-start' if args.start else ''}.json"
    document = json.dumps({"step": trained.step, "chosen": trained.chosen, "results": lines}, indent=1)
    make_directory(config.output.path)
    write_bytes(join(config.output.path, name), document.encode())
    if not args.start:
        with MetricsWriter(config.output.path, None) as metrics:
            for line in lines:
                metrics.write("evaluate", trained.step, line)
        write_run_report(config, trained.dataset, trained.recommender, trained.step)
    if args.json:
        print(document)
        return 0
    text = {"retrieval": format_results, "ranking": format_predictions}[config.model.family](lines)
    print(f"{what}\n")
    print("\n".join([text, *("\n" + finding for finding in evaluation_findings(lines))]))
    return 0


def format_results(lines: list[dict]) -> str:
    """The metrics of a retrieval model as a table, and the protocol."""
    from trainer.report.left_out import reasons

    names = [name for name in lines[0] if "@" in name or name in UNCUT]
    models = [line for line in lines if line["scorer"] == "model"]
    labels = [
        line["scorer"] + (f", {line['weights']}" if len(models) > 1 and line["scorer"] == "model" else "")
        for line in lines
    ]
    rows = [["", *names]]
    for line, label in zip(lines, labels, strict=True):
        rows.append([label, *(f"{line[name]:.4f}" for name in names)])
    first = lines[0]
    limits = first.get("intervals", {})
    for side, word in enumerate(("from", "to")):
        if any(limits.get(name) for name in names):
            pairs = [limits.get(name) for name in names]
            rows.insert(2 + side, [f"  {word}", *(f"{pair[side]:.4f}" if pair else "-" for pair in pairs)])
    counts = f"{first['users']:,} users, {first['targets']:,} targets ({first['cold_targets']:,} cold)"
    left_out = reasons(first)
    notes = [f"{first['split']}: {counts}", *([f"left out: {'; '.join(left_out)}"] if left_out else [])]
    notes += [first["protocol"], *filter(None, [first.get("resampling")])]
    lists = lists_text(lines, labels)
    return "\n\n".join([aligned(rows), *filter(None, [lists]), "\n".join(notes), *segment_texts(first)])
