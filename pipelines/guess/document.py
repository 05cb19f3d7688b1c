"""`lazytower prepare --guess`: a first configuration from the files themselves, each guess with a comment."""

import json
import os
import re
from collections.abc import Iterator

import yaml

from configs.errors import ConfigError, DataError
from configs.load import parse_config
from pipelines.guess.columns import (
    Guess,
    feature_name,
    feature_of,
    find_roles,
    key_of_side,
    label_advice,
    owner_of,
    time_unit,
)
from pipelines.guess.sample import Sample, read_sample

_INTEGER = re.compile(r"^(-?[0-9]+)\.0+$")
_INDENT = "  "


def guess(paths: list[str]) -> str:
    """The text of a configuration that `lazytower prepare` accepts, with a comment beside each guess.

    Args:
      paths: the interactions, then side tables of users and items; files, directories or globs.

    Raises:
      DataError: a file cannot be read, has no column of users or items, or shares no keys with the
        interactions.
    """
    events, *sides = map(read_sample, paths)
    roles = find_roles(events)
    if events.format.get("header", (True, ""))[0] is False:
        roles = _named_by_role(events, roles)
    missing = [role for role in ("user", "item") if role not in roles]
    if missing:
        raise DataError(
            f"{events.file}: no column looks like the {missing[0]}'s key; its columns are "
            f"{', '.join(map(repr, events.names))}. The first file must have the interactions"
        )
    text = "\n".join([*_heading(paths), *_source(events, sides, roles), *_run(events, roles)]) + "\n"
    try:
        parse_config(yaml.safe_load(text), "the guessed configuration")
    except ConfigError as error:
        raise DataError(
            f"{events.file}: {error}; rename columns, or write the configuration by hand"
        ) from None
    return text


def _heading(paths: list[str]) -> list[str]:
    return [
        "# Guessed from the first rows of " + ", ".join(map(os.path.basename, map(_plain_path, paths))) + ".",
        "# Check each comment, then: lazytower prepare --config THIS_FILE",
        f"name: {_stem(paths[0])}",
    ]


def _plain_path(path: str) -> str:
    return path.rstrip("/")


def _stem(path: str) -> str:
    return (
        re.sub(r"[^A-Za-z0-9_.-]+", "_", os.path.basename(_plain_path(path)).split(".")[0]).strip("_")
        or "run"
    )


def _line(indent: int, key: str, value: object, reason: str = "") -> str:
    comment = f"  # {reason}" if reason else ""
    return f"{_INDENT * indent}{key}: {_flow(value)}{comment}"


def _flow(value: object) -> str:
    """A value in YAML's flow style, which JSON's text is a part of, with bare words where they suffice."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str):
        bare = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", value) and yaml.safe_load(value) == value
        return value if bare else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


def _source(events: Sample, sides: list[Sample], roles: dict[str, tuple[str, str]]) -> Iterator[str]:
    yield "source:"
    yield from _format_lines(events, 1)
    yield f"{_INDENT}roles:"
    for role, (column, reason) in roles.items():
        yield _line(2, role, column, reason)
    if "timestamp" in roles:
        found = time_unit(events, roles["timestamp"][0])
        assert found is not None, "a column without times has not got the role"
        yield _line(1, "timestamp_unit", *found)
    taken: set[str] = set()
    used = {column for column, _ in roles.values()}
    rest = [name for name in events.names if name not in used]
    user, item = roles["user"][0], roles["item"][0]
    lines = []
    for name in rest:
        found_feature = feature_of(events, name)
        if isinstance(found_feature, Guess) and found_feature.value["kind"] == "vector":
            found_feature = "a vector must be in a side table, once for each user or item"
        if isinstance(found_feature, Guess):
            of, why = owner_of(events, name, user, item)
            found_feature = Guess({"of": of} | found_feature.value, f"{found_feature.reason}; {why}")
        lines.append(_feature_line(name, found_feature, taken, 2))
    yield from _listed("features", lines, 1)
    if sides:
        yield f"{_INDENT}sides:"
        keys = {"user": _keys(events, user), "item": _keys(events, item)}
        for side in sides:
            yield from _side(side, keys, taken)


def _named_by_role(events: Sample, roles: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Names the columns of a file without a header after their roles."""
    names = {column: role for role, (column, _) in roles.items()}
    events.columns = {names.get(name, name): values for name, values in events.columns.items()}
    events.names = [names.get(name, name) for name in events.names]
    return {role: (role, reason) for role, (_, reason) in roles.items()}


def _keys(sample: Sample, column: str) -> set[str]:
    return {_clean(value) for value in sample.columns[column] if isinstance(value, str)}


def _clean(key: str) -> str:
    """As source.clean_keys for the keys that matter here."""
    key = key.strip()
    found = _INTEGER.match(key)
    return found[1] if found else key


def _format_lines(sample: Sample, indent: int) -> Iterator[str]:
    for key, (value, reason) in sample.format.items():
        yield _line(indent, key, value, reason)
        if key == "kind":
            yield _line(indent, "paths", [sample.path], f"about {sample.rows:,} rows")
    if sample.format.get("header", (True, ""))[0] is False:
        yield _line(indent, "columns", sample.names, "names for columns that have none; change them freely")


def _listed(key: str, lines: list[str], indent: int) -> Iterator[str]:
    """A list of features; comments alone leave the key out."""
    if any(not line.lstrip().startswith("#") for line in lines):
        yield f"{_INDENT * indent}{key}:"
    yield from lines


def _feature_line(column: str, found: Guess | str, taken: set[str], indent: int) -> str:
    if isinstance(found, str):
        return f"{_INDENT * indent}# {column}: left out: {found}"
    name = feature_name(column, taken)
    taken.add(name)
    value: dict[str, object] = {"name": name}
    if name != column:
        value["column"] = column
    return f"{_INDENT * indent}- {_flow(value | found.value)}  # {found.reason}"


def _side(side: Sample, keys: dict[str, set[str]], taken: set[str]) -> Iterator[str]:
    key = key_of_side(side, keys, _clean)
    if key is None:
        raise DataError(
            f"{side.file}: no column has the keys of the interactions' users or items, once each; its "
            f"columns are {', '.join(map(repr, side.names))}"
        )
    of, column, reason = key
    first, *others = _format_lines(side, 3)
    yield f"{_INDENT * 2}- {first.strip()}"
    yield from others
    yield _line(3, "of", of, reason)
    yield _line(3, "key", column)
    lines = [_feature_line(n, feature_of(side, n), taken, 4) for n in side.names if n != column]
    found = list(_listed("features", lines, 3))
    if not any(line.strip() == "features:" for line in found):
        raise DataError(f"{side.file}: no column of it makes a feature; leave this file out")
    yield from found


def _run(events: Sample, roles: dict[str, tuple[str, str]]) -> Iterator[str]:
    stem = _stem(events.path)
    yield "dataset:"
    yield _line(1, "path", f"datasets/{stem}")
    if "label" in roles:
        column = roles["label"][0]
        yield _line(1, "positive", *label_advice(column, events.columns[column]))
    else:
        yield _line(1, "positive", "all", "there is no column of labels")
    if "split" in roles:
        yield _line(1, "split", {"kind": "given"}, "by the column of that role")
    elif "timestamp" in roles:
        yield _line(1, "split", {"kind": "temporal"}, "the newest rows are test; leave_last_out is another")
    else:
        yield _line(1, "split", {"kind": "random"}, "no times; leave_last_out if rows are in order of time")
    batch = min(8192, max(64, 1 << round(max(0, events.rows // 300 - 1)).bit_length()))
    yield "train:"
    yield _line(1, "batch_size", batch, f"for about {events.rows:,} rows")
    yield _line(1, "num_epochs", 8)
    yield "output:"
    yield _line(1, "path", f"runs/{stem}")
