"""`lazytower recommend`: asks an exported model for items; needs the SavedModel alone."""

import dataclasses
import json

from configs.arguments import add_override_argument
from configs.errors import ExportError
from configs.system.storage import read_bytes
from configs.text import aligned
from trainer.serving.client import find_version, read_metadata, recommend
from trainer.serving.requests import Request, check_request, parse_requests

_SHOWN = 3  # example users


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--model", metavar="DIR", help="export directory, or one version inside it; local or gs://"
    )
    model.add_argument("--config", metavar="RUN.yaml", help="run whose newest export is used")
    add_override_argument(parser)
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
    path = find_version(_directory(args))
    metadata = read_metadata(path)
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
    return f"{path}: {metadata['name']}, step {metadata['step']}, {metadata['weights']} weights; {seen}"


def _directory(args) -> str:
    if args.model:
        if args.overrides:
            raise ExportError(f"--set {args.overrides[0]}: changes a config; replace --model by --config")
        return args.model
    from configs.load import load_config

    return load_config(args.config, args.overrides).export_path


def _check_k(k: int, metadata: dict) -> None:
    if not 1 <= k <= metadata["max_k"]:
        raise ExportError(f"--k {k}: must be 1 to {metadata['max_k']}, the export.max_k of the model")


def _requests(args, metadata: dict) -> list[Request]:
    """What the flags ask. Raises ExportError when it is nothing, or not what the model takes."""
    inputs = metadata.get("inputs", {})
    request = Request(
        history=_split(args.history),
        features={name: value for name, value in map(_named("--set_feature"), args.set_feature)},
        include=_split(args.include),
        exclude=_split(args.exclude),
        where={name: _split(value) for name, value in map(_named("--where"), args.where)},
    )
    if args.requests:
        if request != Request():
            raise ExportError("--requests: the file says all of a request; leave out the other flags")
        found = parse_requests(_lines("--requests", args.requests), args.requests, inputs)
        if not found:
            raise ExportError(f"--requests {args.requests}: holds no request")
        return found
    check_request(request, inputs, "the flags")
    return [
        check_request(dataclasses.replace(request, user=user), inputs, "the flags")
        for user in _users(args, metadata)
    ]


def _split(text: str) -> list[str]:
    return [key for key in text.split(",") if key]


def _named(flag: str):
    """Function from NAME=VALUE to both; ExportError names the flag."""

    def part(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise ExportError(f"{flag} {text}: expected NAME=VALUE")
        return name, value

    return part


def _lines(flag: str, path: str) -> list[str]:
    try:
        # prepare rejects keys with a line end or a leading byte-order mark.
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{flag} {path}: cannot be read ({error})") from None


def _users(args, metadata: dict) -> list[str]:
    """Keys from the flags; a user without a key when the flags say what one did or is; or example users.
    Raises ExportError when there are none."""
    if args.users is not None:
        users = [key for key in args.users.split(",") if key]
    elif args.users_file:
        users = [line for line in _lines("--users_file", args.users_file) if line]
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
