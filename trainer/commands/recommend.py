"""`lazytower recommend`: asks an exported model for items; needs the SavedModel alone."""

import dataclasses
import json

from configs.arguments import add_model_arguments
from configs.errors import ExportError
from configs.text import aligned
from trainer.serving.client import export_directory, find_version, read_metadata, recommend, step_text
from trainer.serving.requests import (
    Request,
    check_request,
    named_values,
    parse_requests,
    read_lines,
    split_keys,
)

_SHOWN = 3  # example users


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    add_model_arguments(parser)
    users = parser.add_mutually_exclusive_group()
    users.add_argument(
        "--users", metavar="A,B,C", help="keys of users; for keys with commas use --users_file"
    )
    users.add_argument("--users_file", metavar="FILE", help="file with keys of users, one per line")
    users.add_argument(
        "--num_users", metavar="N", type=int, help=f"number of example users, at most 20 (default: {_SHOWN})"
    )
    users.add_argument(
        "--requests",
        metavar="FILE",
        help="a JSON object a line: user, history, features, include, exclude, where",
    )
    parser.add_argument(
        "--history", metavar="A,B,C", default="", help="items of the user's past, newest last"
    )
    parser.add_argument(
        "--set_feature", metavar="NAME=VALUE", action="append", default=[], help="a user feature; repeatable"
    )
    parser.add_argument("--k", type=int, default=10, help="items per user (default: 10)")
    parser.add_argument(
        "--include_seen", action="store_true", help="do not leave out items that the user has seen"
    )
    parser.add_argument("--exclude", metavar="X,Y", default="", help="keys of items to leave out")
    parser.add_argument("--include", metavar="X,Y", default="", help="keys of the only items that may return")
    parser.add_argument(
        "--where",
        metavar="NAME=V,W",
        action="append",
        default=[],
        help="only items that have one of the values of a categorical feature; repeatable",
    )
    parser.add_argument("--format", choices=["table", "jsonl"], default="table", help="output format")


def run(args) -> int:
    """Prints the recommendations."""
    path = find_version(export_directory(args, "retrieval"))
    metadata = read_metadata(path, "retrieval")
    _check_k(args.k, metadata)
    requests = _requests(args, metadata)
    answers = recommend(path, requests, args.k, metadata["exclude_seen"] and not args.include_seen)
    if args.format == "jsonl":
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))
        return 0
    print(_heading(path, metadata, args.include_seen))
    for answer in answers:
        print("\n" + format_answer(answer, metadata["users"]["ids"]))
    return 0


_ROWS_OF_UNKNOWN = {
    "vocab": "the row that all unknown users share",
    "hash": "the row of the key's hash",
    "given": "its line's row or, outside the vocabulary file, the row of the key's hash",
}


def format_answer(answer: dict, ids: str) -> str:
    """One user's items as a table of rank, item and score.

    Args:
      answer: from `recommend`.
      ids: vocab, hash or given, how the model finds users.
    """
    note = ""
    if not answer["known"]:
        note = f" (not seen in training: answered from {_ROWS_OF_UNKNOWN[ids]})"
    rows = [["rank", "item", "   score"]]  # scores of most models in equal columns, user by user
    for rank, entry in enumerate(answer["items"], 1):
        rows.append([str(rank), entry["item"], f"{entry['score']:.4f}"])
    lines = ["  " + line for line in aligned(rows, left=(1,)).splitlines()]
    if not answer["items"]:
        lines.append("  (no item is left)")
    return "\n".join([f"user {answer['user'] or '(without a key)'}{note}", *lines])


def _heading(path: str, metadata: dict, include_seen: bool) -> str:
    seen = "seen items left out"
    if include_seen:
        seen = "seen items may return"
    elif not metadata["exclude_seen"]:
        seen = "seen items may return: exported with export.exclude_seen: false"
    return f"{path}: {metadata['name']}, {step_text(metadata)}, {metadata['weights']} weights; {seen}"


def _check_k(k: int, metadata: dict) -> None:
    if not 1 <= k <= metadata["max_k"]:
        raise ExportError(f"--k {k}: must be 1 to {metadata['max_k']}, the export.max_k of the model")


def _requests(args, metadata: dict) -> list[Request]:
    """What the flags ask. Raises ExportError when it is nothing, or not what the model takes."""
    inputs = metadata.get("inputs", {})
    request = Request(
        history=split_keys(args.history),
        features={name: value for name, value in map(named_values("--set_feature"), args.set_feature)},
        include=split_keys(args.include),
        exclude=split_keys(args.exclude),
        where={name: split_keys(value) for name, value in map(named_values("--where"), args.where)},
    )
    if args.requests:
        if request != Request():
            raise ExportError("--requests: the file says all of a request; leave out the other flags")
        found = parse_requests(read_lines("--requests", args.requests), args.requests, inputs)
        if not found:
            raise ExportError(f"--requests {args.requests}: holds no request")
        return found
    check_request(request, inputs, "the flags")
    return [
        check_request(dataclasses.replace(request, user=user), inputs, "the flags")
        for user in _users(args, metadata)
    ]


def _users(args, metadata: dict) -> list[str]:
    """Keys from the flags; a user without a key when the flags say what one did or is; or example users.
    Raises ExportError when there are none."""
    if args.users is not None:
        users = [key for key in args.users.split(",") if key]
    elif args.users_file:
        users = [line for line in read_lines("--users_file", args.users_file) if line]
    elif args.num_users is None and (args.history or args.set_feature):
        users = [""]
    else:
        examples = metadata["example_users"]
        if args.num_users is not None and not 1 <= args.num_users <= len(examples):
            raise ExportError(
                f"--num_users {args.num_users}: must be 1 to {len(examples)}, the model's example users; "
                "name others with --users"
            )
        users = examples[: args.num_users or _SHOWN]
    if not users:
        raise ExportError("no users; name some with --users or --users_file")
    return users
