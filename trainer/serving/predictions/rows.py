"""Rows that an exported ranking model is asked about, from flags or JSON lines, and its answers."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from configs.errors import ExportError
from trainer.serving.client import input_values, load_signature
from trainer.serving.requests import FORMS, as_key, as_keys, json_objects

_KEYS = {"user": as_key, "item": as_key, "history": as_keys}
_FORM_NAMES = {
    **{"string": "text", "float32": "number", "strings": "list of text"},
    **{"weighted_strings": "list of text, or weights by text", "vector": "list of numbers"},
}
_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class RowRequest:
    """What is said of a row; what is left out says nothing."""

    user: str = ""
    item: str = ""
    history: list[str] = dataclasses.field(default_factory=list)
    """Keys of items, newest last."""
    features: dict[str, Any] = dataclasses.field(default_factory=dict)
    """By name, values as trainer.serving.requests.Request.features."""
    place: str = dataclasses.field(default="", compare=False)
    """Where it stands, for messages."""


def parse_rows(lines: Iterable[str], name: str, inputs: dict) -> list[RowRequest]:
    """Rows from JSON lines.

    Args:
      lines: objects of user, item, history and features, all optional, such as {"site": "a", "hour": 3}; null
        says nothing. Blank lines are skipped.
      name: of the file, for messages.
      inputs: of the model, as row_request.

    Raises:
      ExportError: a line is not such an object, or the model does not take it. Names the line.
    """
    documents = json_objects(lines, name, '{"hour": 3}')
    return [row_request(document, inputs, place) for place, document in documents]


def row_request(values: dict[str, Any], inputs: dict, place: str) -> RowRequest:
    """The request that says these values.

    Args:
      values: by input; None says nothing.
      inputs: what lazytower.json says of the model's inputs: user, item and history (bool), features (form by
        name, as trainer.serving.inputs.kinds.BaseInput.form), and dims of vectors by name.
      place: for messages.

    Raises:
      ExportError: the model does not read an input, or a value has the wrong type.
    """
    found: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name, value in values.items():
        if name not in inputs["features"] and not (name in _KEYS and inputs.get(name)):
            raise ExportError(f"{place}: {name}: the model does not read it; it reads {input_list(inputs)}")
        if value is None:
            continue
        where = f"{place}: {name}"
        if name in _KEYS:
            found[name] = _KEYS[name](value, where)
        else:
            features[name] = FORMS[inputs["features"][name]](value, where)
            dim = inputs.get("dims", {}).get(name)
            if dim is not None and len(features[name]) != dim:
                raise ExportError(f"{where}: expected {dim} numbers, found {len(features[name])}")
    return RowRequest(features=features, place=place, **found)


def input_list(inputs: dict) -> str:
    """What the model reads, for messages."""
    keys = [name for name in _KEYS if inputs.get(name)]
    features = [f"{name} ({_FORM_NAMES[form]})" for name, form in sorted(inputs["features"].items())]
    return ", ".join([*keys, *features]) or "nothing that requests can give"


def predict(path: str, requests: list[RowRequest]) -> Iterator[dict[str, float]]:
    """Predictions of the SavedModel at `path`, by task, of each request.

    Raises:
      ExportError: the SavedModel cannot be loaded, or refuses a request.
    """
    from configs.sections.devices import CpuDeviceConfig
    from trainer.runtime import start_tensorflow

    tf = start_tensorflow(CpuDeviceConfig(), deterministic=False)
    signature = load_signature(tf, path, "score")
    for start in range(0, len(requests), _AT_ONCE):
        yield from _answers(tf, signature, requests[start : start + _AT_ONCE])


def _answers(tf, signature, requests: list[RowRequest]) -> list[dict[str, float]]:
    specs = signature.structured_input_signature[1]
    given = {name: input_values(tf, name, spec, requests) for name, spec in specs.items()}
    try:
        answer = {name: value.numpy() for name, value in signature(**given).items()}
    except tf.errors.InvalidArgumentError as error:
        if len(requests) > 1:  # one by one, to name the one that is refused
            return [found for request in requests for found in _answers(tf, signature, [request])]
        lines = error.message.splitlines()
        reason = next((line for line in lines if line.startswith("assertion failed")), lines[-1])
        raise ExportError(f"{requests[0].place}: the model refuses the row: {reason}") from None
    return [{name: float(values[i]) for name, values in answer.items()} for i in range(len(requests))]
