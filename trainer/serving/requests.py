"""A request to an exported model, from flags or a line of JSON, checked against the inputs of the model."""

import dataclasses
import json
import math
from collections.abc import Iterable

from configs.errors import ExportError

_LISTS = ("history", "include", "exclude")


@dataclasses.dataclass(frozen=True)
class Request:
    """Inputs as trainer.serving.model describes them; empty ones are left out of the request."""

    user: str = ""
    history: list[str] = dataclasses.field(default_factory=list)
    """Keys of items, newest last."""
    features: dict[str, str | float] = dataclasses.field(default_factory=dict)
    """User features by name."""
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
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"{name}:{number}"
        try:
            document = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ExportError(f"{place}: not valid JSON ({error})") from None
        if not isinstance(document, dict):
            raise ExportError(
                f'{place}: expected an object such as {{"user": "17"}}, found {line.strip():.40}'
            )
        found.append(check_request(_request(document, place), inputs, place))
    return found


def check_request(request: Request, inputs: dict, place: str) -> Request:
    """The request, with numeric features as floats.

    Args:
      inputs: what lazytower.json says of the model's inputs: history (bool), features (dtype by name, string
        or float32) and where (list of names). Empty for exports of earlier versions, which take `user` and
        `exclude` only.

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
        dtype = inputs["features"].get(name)
        if dtype is None:
            what = _instead(name, "a user feature of the model", inputs["features"])
            raise ExportError(f"{place}: features.{name}: {what}")
        features[name] = _number(value, f"{place}: features.{name}") if dtype == "float32" else str(value)
    return dataclasses.replace(request, features=features)


def _instead(name: str, what: str, known: Iterable[str]) -> str:
    return f"{name!r} is not {what} that requests can name; these are: {', '.join(sorted(known)) or 'none'}"


def _request(document: dict, place: str) -> Request:
    names = [field.name for field in dataclasses.fields(Request)]
    for key in document:
        if key not in names:
            raise ExportError(f"{place}: unknown key {key!r}; known: {', '.join(names)}")
    fields: dict = {"user": _key(document.get("user", ""), f"{place}: user")}
    for name in _LISTS:
        fields[name] = _keys(document.get(name, []), f"{place}: {name}")
    for name in ("features", "where"):
        fields[name] = document.get(name, {})
        if not isinstance(fields[name], dict):
            raise ExportError(f"{place}: {name}: expected an object of values by feature")
    fields["where"] = {
        name: _keys(value, f"{place}: where.{name}") for name, value in fields["where"].items()
    }
    fields["features"] = {
        name: value if isinstance(value, float) else _key(value, f"{place}: features.{name}")
        for name, value in fields["features"].items()
    }
    return Request(**fields)


def _keys(value: object, place: str) -> list[str]:
    return [_key(one, place) for one in (value if isinstance(value, list) else [value])]


def _key(value: object, place: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ExportError(f"{place}: expected text or a whole number, found {json.dumps(value)}")


def _number(value: str | float, place: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ExportError(f"{place}: expected a finite number, found {value!r}")
    return number
