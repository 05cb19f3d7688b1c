"""`lazytower predict`: asks an exported ranking model about rows; needs the SavedModel alone."""

import json

from configs.arguments import add_model_arguments
from configs.errors import ExportError
from configs.text import aligned
from trainer.serving.client import export_directory, find_version, read_metadata, step_text
from trainer.serving.predictions.rows import RowRequest, input_list, parse_rows, predict, row_request
from trainer.serving.requests import named_values, read_lines, split_keys


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_model_arguments(parser)
    parser.add_argument("--user", metavar="KEY", help="key of the user")
    parser.add_argument("--item", metavar="KEY", help="key of the item")
    parser.add_argument("--history", metavar="A,B,C", help="items of the user's past, newest last")
    parser.add_argument(
        "--set_feature", metavar="NAME=VALUE", action="append", default=[], help="a feature; repeatable"
    )
    parser.add_argument(
        "--requests", metavar="FILE", help='a JSON object a line, such as {"hour": 3, "tags": ["a", "b"]}'
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each row")


def run(args) -> int:
    """Prints the predictions."""
    path = find_version(export_directory(args, "ranking"))
    metadata = read_metadata(path, "ranking")
    requests = _requests(args, metadata["inputs"])
    tasks, answers = [task["name"] for task in metadata["tasks"]], predict(path, requests)
    if args.json:
        for answer in answers:
            print(json.dumps({task: answer[task] for task in tasks}))
        return 0
    table = predictions_table(tasks, list(answers))
    print(f"{path}: {metadata['name']}, {step_text(metadata)}, {metadata['weights']} weights")
    print(table)
    return 0


def predictions_table(tasks: list[str], answers: list[dict[str, float]]) -> str:
    """A table of a line for each row and a column for each task."""
    rows = [["row", *tasks]]
    rows += [[str(i), *(f"{answer[task]:.6f}" for task in tasks)] for i, answer in enumerate(answers, 1)]
    return aligned(rows)


def _requests(args, inputs: dict) -> list[RowRequest]:
    """What the flags ask. Raises ExportError when it is nothing, or not what the model takes."""
    keys = {"user": args.user, "item": args.item}
    said = {name: value for name, value in keys.items() if value is not None}
    if args.history is not None:
        said["history"] = split_keys(args.history)
    for name, value in map(named_values("--set_feature"), args.set_feature):
        if name in (*keys, "history"):
            raise ExportError(f"--set_feature {name}={value}: {name} is not a feature; use --{name}")
        said[name] = value
    if not args.requests:
        if not said:
            raise ExportError(
                "nothing to predict; describe a row with --set_feature NAME=VALUE, or rows with --requests; "
                f"the model reads {input_list(inputs)}"
            )
        return [row_request(said, inputs, "the flags")]
    if said:
        raise ExportError("--requests: the file says all of a request; leave out the other flags")
    found = parse_rows(read_lines("--requests", args.requests), args.requests, inputs)
    if not found:
        raise ExportError(f"--requests {args.requests}: holds no request")
    return found
