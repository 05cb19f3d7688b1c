"""`lazytower compare-lists`: what changes between two outputs of `lazytower score --what topk`."""

import argparse
import json

from configs.text import aligned

_DEPTHS = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
_PERSISTENCE = 0.9


def add_arguments(parser) -> None:
    """Flags of the sub-command."""
    parser.add_argument("one", metavar="A", help="directory of an output, such as that of the model in use")
    parser.add_argument("other", metavar="B", help="directory of another one, such as that of the new model")
    parser.add_argument(
        "--persistence",
        type=_share,
        default=_PERSISTENCE,
        metavar="P",
        help=f"of rank-biased overlap: probability of reading on to the next rank (default: {_PERSISTENCE})",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(args) -> int:
    """Prints the comparison."""
    document = compare(args.one, args.other, args.persistence)
    print(json.dumps(document) if args.json else comparison_text(document))
    return 0


def compare(one: str, other: str, persistence: float = _PERSISTENCE) -> dict:
    """The comparison of two outputs, as JSON values.

    Raises:
      DataError: one of them is not a finished output of lists.
    """
    from trainer.batch.comparison import Comparison
    from trainer.batch.lists import ItemNumbers, TopkOutput, paired

    left, right, numbers = TopkOutput(one), TopkOutput(other), ItemNumbers()
    k = max(left.k, right.k)
    least = min(left.k, right.k)
    found = Comparison(k, [d for d in _DEPTHS if d < least] + [least], persistence)
    for pair in paired(left, right, numbers):
        found.add(*pair)
    sides = {"a": left, "b": right}
    facts = {name: {"path": side.path, "users": side.rows, "k": side.k} for name, side in sides.items()}
    for name, side in sides.items():
        model = side.manifest["request"]["model"]
        facts[name] |= {"version": model.get("version"), "recommendable": model.get("recommended_items")}
    return facts | found.document(numbers)


def comparison_text(document: dict) -> str:
    """The comparison as a table for people."""
    sides = [document[name] for name in ("a", "b")]
    lines = [
        f"{name}: {side['path']}, version {side['version']}, {side['users']:,} users, k {side['k']}"
        for name, side in zip("AB", sides, strict=True)
    ]
    alone = ", ".join(
        f"{side['users'] - document['users']:,} in {n} alone" for n, side in zip("AB", sides, strict=True)
    )
    lines.append(
        f"users: {document['users']:,} in both, {alone}; "
        f"{document['users_without_items']:,} of them without an item in both"
    )
    if document["identical"] is None:
        return "\n".join([*lines, "no user has items in A or B, so there is nothing to compare"])
    rows = [["the same list", f"{document['identical']:.4f}"]]
    rows += [[f"overlap@{depth}", f"{share:.4f}"] for depth, share in document["overlap"].items()]
    name = f"rank-biased overlap (p {document['persistence']:g})"
    rows.append([name, f"{document['rank_biased_overlap']:.4f}"])
    lines.append(aligned(rows))
    for name, side, items in zip("AB", sides, document["items"], strict=True):
        of = f" of {side['recommendable']:,}" if side["recommendable"] else ""
        lines.append(f"coverage of {name}: {items:,}{of} items, {items - document['items_of_both']:,} alone")
    return "\n".join(lines)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be between 0 and 1, such as {_PERSISTENCE}")
    return value
