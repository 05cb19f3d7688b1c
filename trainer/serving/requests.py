"""A request to an exported model, from flags or a line of JSON, checked against the inputs of the model."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from configs.errors import ExportError
from configs.system.storage import read_bytes

_LARGEST = 3.4028234663852886e38  # of float32
_LISTS = ("history", "include", "exclude")


@dataclasses.dataclass(frozen=True)
class Request:
    """Inputs as trainer.serving.model describes them; empty ones are left out of the request."""

    user: str = ""
    history: list[str] = dataclasses.field(default_factory=list)
    """Keys of items, newest last."""
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Features of users and of the context by name: a key, a number, keys as a list, keys with weights as a
    dict, or the numbers of a vector as a list."""
    include: list[str] = dataclasses.field(default_factory=list)
    """Keys of items."""
    exclude: list[str] = dataclasses.field(default_factory=list)
    """Keys of items."""
    where: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    """Values of item features by name."""


def parse_requests(lines: Iterable[str], name: str, inputs: dict) -> list[Request]:
    """Requests from JSON lines; blank lines are skipped.

    Args:
      lines: objects with the fields of Request as keys, all optional. A single text or number may stand for
        a list of one, and a whole number for a key.
      name: of the file, for messages.
      inputs: of the model; see check_request.

    Raises:
      ExportError: a line is not such an object, or the model does not take it. Names the line.
    """
    documents = json_objects(lines, name, '{"user": "17"}')
    return [check_request(_request(document, place), inputs, place) for place, document in documents]


def json_objects(lines: Iterable[str], name: str, example: str) -> Iterator[tuple[str, dict]]:
    """(place, for messages; object) of JSON lines; blank lines are skipped.

    Args:
      lines: an object each.
      name: of the file.
      example: of an object, for messages.

    Raises:
      ExportError: a line is not an object. Names the line.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{place}: not valid JSON ({error})") from None
        if not isinstance(document, dict):
            raise ExportError(f"{place}: expected an object such as {example}, found {line.strip():.40}")
        yield place, document


def read_lines(flag: str, path: str) -> list[str]:
    """The lines of a file that a flag names; ExportError when it cannot be read."""
    try:
        # prepare rejects keys with a line end or a leading byte-order mark.
        return read_bytes(path).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{flag} {path}: cannot be read ({error})") from None


def split_keys(text: str) -> list[str]:
    """Keys of text with commas, without empty ones."""
    return [key for key in text.split(",") if key]


def named_values(flag: str) -> Callable[[str], tuple[str, str]]:
    """Function from NAME=VALUE to both; ExportError names the flag."""

    def part(text: str) -> tuple[str, str]:
        name, equals, value = text.partition("=")
        if not name or not equals or not value:
            raise ExportError(f"{flag} {text}: expected NAME=VALUE")
        return name, value

    return part


def check_request(request: Request, inputs: dict, place: str) -> Request:
    """The request, with its features as their forms want them.

    Args:
      inputs: what lazytower.json says of the model's inputs: history (bool), features (form by name: string,
        float32, strings, weighted_strings or vector) and where (list of names). Empty for exports of earlier
        versions, which take `user` and `exclude` only.

    Raises:
      ExportError: the model does not take an input of the request.
    """
    if not inputs and (request.history or request.features or request.include or request.where):
        raise ExportError(
            f"{place}: the model was exported by an earlier version and takes user and exclude only; "
            "run `lazytower export` again"
        )
    if request.history and not inputs["history"]:
        raise ExportError(f"{place}: history: the model does not read the history; leave it out")
    for name in request.where:
        if name not in inputs["where"]:
            raise ExportError(f"{place}: where.{name}: {_instead(name, 'an item feature', inputs['where'])}")
    features = {}
    for name, value in request.features.items():
        form = inputs["features"].get(name)
        if form is None:
            what = _instead(name, "a user feature of the model", inputs["features"])
            raise ExportError(f"{place}: features.{name}: {what}")
        features[name] = FORMS[form](value, f"{place}: features.{name}")
    return dataclasses.replace(request, features=features)


def _instead(name: str, what: str, known: Iterable[str]) -> str:
    return f"{name!r} is not {what} that requests can name; these are: {', '.join(sorted(known)) or 'none'}"


def _request(document: dict, place: str) -> Request:
    names = [field.name for field in dataclasses.fields(Request)]
    for key in document:
        if key not in names:
            raise ExportError(f"{place}: unknown key {key!r}; known: {', '.join(names)}")
    fields: dict = {"user": as_key(document.get("user", ""), f"{place}: user")}
    for name in _LISTS:
        fields[name] = as_keys(document.get(name, []), f"{place}: {name}")
    for name in ("features", "where"):
        fields[name] = document.get(name, {})
        if not isinstance(fields[name], dict):
            raise ExportError(f"{place}: {name}: expected an object of values by feature")
    fields["where"] = {
        name: as_keys(value, f"{place}: where.{name}") for name, value in fields["where"].items()
    }
    return Request(**fields)


def as_keys(value: object, place: str) -> list[str]:
    """Keys of a list or of a single one, as `as_key`."""
    return [as_key(one, place) for one in (value if isinstance(value, list) else [value])]


def as_key(value: object, place: str) -> str:
    """A key of text or a whole number; ExportError names the place."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ExportError(f"{place}: expected text or a whole number, found {json.dumps(value)}")


def _text(value: object, place: str) -> str:
    if isinstance(value, float):
        return str(value)
    return as_key(value, place)


def _strings(value: object, place: str) -> list[str]:
    """Keys, from a list of them or from text with commas."""
    if isinstance(value, dict):
        raise ExportError(f"{place}: the keys of this feature have no weights; give them as a list")
    return [key for key in (value.split(",") if isinstance(value, str) else as_keys(value, place)) if key]


def _weighted(value: object, place: str) -> dict[str, float]:
    """Weights by key; keys in a list or text weigh 1 for each time they are there."""
    if not isinstance(value, dict):
        counts: dict[str, float] = {}
        for key in _strings(value, place):
            counts[key] = counts.get(key, 0.0) + 1.0
        return counts
    found = {key: _number(weight, f"{place}.{key}") for key, weight in value.items() if key}
    for key, weight in found.items():
        if weight < 0:
            raise ExportError(f"{place}.{key}: a weight must be at least 0, found {weight:g}")
    return found


def _vector(value: object, place: str) -> list[float]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list):
        raise ExportError(f"{place}: expected the numbers of a vector as a list, found {json.dumps(value)}")
    return [_number(part, place) for part in parts]


def _number(value: Any, place: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (ValueError, TypeError):
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise ExportError(f"{place}: expected a finite number, found {value!r}")
    return number


FORMS: dict[str, Callable[[Any, str], Any]] = {
    "string": _text,
    "float32": _number,
    "strings": _strings,
    "weighted_strings": _weighted,
    "vector": _vector,
}
"""By form of a feature, what makes it of (a value in a request, its place); ExportError where it cannot."""
