"""`lazytower recommend`: asks an exported model for items; needs nothing but the SavedModel."""

import json

from configs.arguments import add_override_argument
from configs.errors import ExportError
from configs.storage import exists, join, read_bytes

_METADATA = "assets.extra/lazytower.json"
_SHOWN = 3  # example users
_KEYS = {
    **{"name": str, "step": int, "weights": str, "max_k": int, "exclude_seen": bool},
    **{"users": dict, "example_users": list},
}


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument(
        "--model", metavar="DIR", help="export directory, or one version inside it; local or gs://"
    )
    model.add_argument("--config", metavar="RUN.yaml", help="the run whose newest export is asked")
    add_override_argument(parser)
    users = parser.add_mutually_exclusive_group()
    users.add_argument("--users", metavar="A,B,C", help="keys of users; keys with commas: --users_file")
    users.add_argument("--users_file", metavar="FILE", help="keys of users, one a line")
    users.add_argument(
        "--num_users", metavar="N", type=int, help=f"example users, at most 20 (default: {_SHOWN})"
    )
    parser.add_argument("--k", type=int, default=10, help="items per user (default: 10)")
    parser.add_argument("--include_seen", action="store_true", help="items that the user knows may return")
    parser.add_argument("--exclude", metavar="X,Y", default="", help="keys of items to leave out")
    parser.add_argument("--format", choices=["table", "jsonl"], default="table", help="how to print")


def run(args) -> int:
    """Prints the recommendations."""
    path = find_version(_directory(args))
    metadata = _metadata(path)
    _check_k(args.k, metadata)
    users = _users(args, metadata)
    exclude = [key for key in args.exclude.split(",") if key]
    answers = recommend(path, users, args.k, metadata["exclude_seen"] and not args.include_seen, exclude)
    if args.format == "jsonl":
        for answer in answers:
            print(json.dumps(answer, ensure_ascii=False))
        return 0
    print(_heading(path, metadata, args.include_seen))
    for answer in answers:
        print("\n" + format_answer(answer, metadata["users"]["ids"]))
    return 0


def find_version(directory: str) -> str:
    """The SavedModel to ask: `directory` itself, or its newest version.

    Raises:
      ExportError: there is no such directory, or no complete version in it.
    """
    from trainer.publish import versions

    directory = directory.rstrip("/") or "/"
    if not exists(directory):
        raise ExportError(f"{directory}: no such directory; run `lazytower export` first")
    if exists(join(directory, "saved_model.pb")):
        return directory
    for version in versions(directory)[::-1]:
        path = join(directory, str(version))
        if exists(join(path, "saved_model.pb")):
            return path
    raise ExportError(f"{directory}: holds no exported version; run `lazytower export` first")


def recommend(path: str, users: list[str], k: int, exclude_seen: bool, exclude: list[str]) -> list[dict]:
    """Asks the SavedModel at `path`.

    Args:
      path: a version's directory.
      users: raw keys.
      k: items per user, 1 to the export's max_k.
      exclude_seen: leave out items of the user's past.
      exclude: raw keys of items to leave out for everybody.

    Returns:
      By user: user, known (whether training saw the user), and items: dicts of item and score, best first.

    Raises:
      ExportError: the SavedModel cannot be loaded.
      ConfigError: its index needs operations of a package that is not installed.
    """
    from configs.training import CpuDevice
    from trainer.publish import loadable
    from trainer.runtime import start_tensorflow

    # Exports from before there were indexes do not name one.
    approximate = _metadata(path).get("index", {}).get("kind") == "scann"
    tf = start_tensorflow(CpuDevice(), deterministic=False)
    if approximate:
        from trainer.indexes.scann_package import load_scann

        load_scann(f"{path}, exported with export.index.kind: scann,")
    try:
        with loadable(path) as place:
            signature = tf.saved_model.load(place).signatures["recommend"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ExportError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
    answer = signature(
        user=tf.constant([_bytes(user) for user in users], tf.string),
        k=tf.constant(k),
        exclude_seen=tf.constant(exclude_seen),
        exclude=tf.constant([_bytes(key) for key in exclude], tf.string, shape=[1, len(exclude)]),
    )
    answer = {name: value.numpy() for name, value in answer.items()}
    return [
        {
            "user": user,
            "known": bool(answer["known"][i]),
            "items": _entries(answer["items"][i], answer["scores"][i]),
        }
        for i, user in enumerate(users)
    ]


def _entries(items, scores) -> list[dict]:
    """One user's list; "" fills it up when fewer than k items are left."""
    return [
        {"item": item.decode("utf-8", "replace"), "score": float(score)}
        for item, score in zip(items, scores, strict=True)
        if item
    ]


def format_answer(answer: dict, ids: str) -> str:
    """One user's items as a table of rank, item and score.

    Args:
      answer: from `recommend`.
      ids: vocab or hash, how the model finds users.
    """
    note = ""
    if not answer["known"]:
        row = "the row that all unknown users share" if ids == "vocab" else "the row of the key's hash"
        note = f" (not seen in training: answered from {row})"
    width = max([len(entry["item"]) for entry in answer["items"]] + [4])
    lines = [f"user {answer['user']}{note}", f"  rank  {'item':{width}}     score"]
    for rank, entry in enumerate(answer["items"], 1):
        lines.append(f"  {rank:4d}  {entry['item']:{width}}  {entry['score']:8.4f}")
    if not answer["items"]:
        lines.append("  (no item is left)")
    return "\n".join(lines)


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
            raise ExportError(f"--set {args.overrides[0]}: changes a config; give --config, not --model")
        return args.model
    from configs.load import load_config

    return load_config(args.config, args.overrides).export_path


def _metadata(path: str) -> dict:
    """lazytower.json of a version. Raises ExportError when it is missing or torn."""
    try:
        document = json.loads(read_bytes(join(path, _METADATA)))
        _check_metadata(document)
    except (OSError, ValueError, RecursionError):
        raise ExportError(
            f"{path}: has no readable {_METADATA}; was it written by `lazytower export`?"
        ) from None
    return document


def _check_metadata(document: object) -> None:
    """Raises ValueError unless what is read of it has the right type."""
    if not isinstance(document, dict):
        raise ValueError("not an object")
    for key, kind in _KEYS.items():
        if not isinstance(document.get(key), kind):
            raise ValueError(f"{key} is missing, or of another type")
    index = document.get("index", {})
    if not isinstance(index, dict) or not isinstance(document["users"].get("ids"), str):
        raise ValueError("index or users.ids is of another type")
    if not all(isinstance(user, str) for user in document["example_users"]):
        raise ValueError("example_users are not all text")


def _check_k(k: int, metadata: dict) -> None:
    if not 1 <= k <= metadata["max_k"]:
        raise ExportError(f"--k {k}: must be 1 to {metadata['max_k']}, the model's export.max_k")


def _users(args, metadata: dict) -> list[str]:
    """Keys from the flags, or example users. Raises ExportError when there are none."""
    if args.users is not None:
        users = [key for key in args.users.split(",") if key]
    elif args.users_file:
        try:
            # No key holds a line end or starts a file with a byte-order mark: prepare sees to it.
            lines = read_bytes(args.users_file).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ExportError(f"--users_file {args.users_file}: cannot be read ({error})") from None
        users = [line for line in lines if line]
    else:
        examples = metadata["example_users"]
        if args.num_users is not None and not 1 <= args.num_users <= len(examples):
            raise ExportError(
                f"--num_users {args.num_users}: the model names 1 to {len(examples)} example users; "
                "name others with --users"
            )
        users = examples[: args.num_users or _SHOWN]
    if not users:
        raise ExportError("no users to ask for; name some with --users or --users_file")
    return users


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
