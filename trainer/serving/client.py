"""Sends requests to an exported model; needs only the SavedModel."""

import json
import math
from collections.abc import Iterator

from configs.errors import ExportError
from configs.system.storage import exists, join, read_bytes
from trainer.serving.requests import Request

_METADATA = "assets.extra/lazytower.json"
_KEYS = {
    **{"name": str, "step": int, "weights": str, "max_k": int, "exclude_seen": bool},
    **{"users": dict, "example_users": list},
}
_FLAGS = ("k", "exclude_seen")
_WHERE, _WEIGHT = "where_", "weight_"
_AT_ONCE = 256


def find_version(directory: str) -> str:
    """The SavedModel to ask: `directory` itself, or its newest version.

    Raises:
      ExportError: there is no such directory, or no complete version in it.
    """
    from trainer.serving.versions import versions

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


def recommend(path: str, requests: list[Request], k: int, exclude_seen: bool) -> Iterator[dict]:
    """Asks the SavedModel at `path`.

    Args:
      path: a version's directory.
      requests: one for each answer, checked by `check_request`.
      k: items per answer, 1 to the export's max_k.
      exclude_seen: leave out items of the user's past.

    Yields:
      By request: user, known (whether training saw the user), and items: dicts of item and score, best first.

    Raises:
      ExportError: the SavedModel cannot be loaded.
      ConfigError: its index needs operations of a package that is not installed.
    """
    from configs.sections.devices import CpuDeviceConfig
    from configs.sections.export import package_of
    from trainer.runtime import start_tensorflow
    from trainer.serving.versions import loadable

    # Exports from before there were indexes do not name one.
    kind = read_metadata(path).get("index", {}).get("kind")
    tf = start_tensorflow(CpuDeviceConfig(), deterministic=False)
    if package := package_of(kind):
        from trainer.indexes.packages import load_operations

        load_operations(package, f"{path}, exported with export.index.kind: {kind},")
    try:
        with loadable(path) as place:
            signature = tf.saved_model.load(place).signatures["recommend"]
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ExportError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None
    specs = signature.structured_input_signature[1]
    for start in range(0, len(requests), _AT_ONCE):
        batch = requests[start : start + _AT_ONCE]
        given = {name: _values(tf, name, spec, batch) for name, spec in specs.items() if name not in _FLAGS}
        answer = signature(k=tf.constant(k), exclude_seen=tf.constant(exclude_seen), **given)
        answer = {name: value.numpy() for name, value in answer.items()}
        for i, request in enumerate(batch):
            yield {
                "user": request.user,
                "known": bool(answer["known"][i]),
                "items": _entries(answer["items"][i], answer["scores"][i]),
            }


def _values(tf, name: str, spec, requests: list[Request]):
    """An input of the signature, from all requests of a batch."""
    if name == "user":
        return tf.constant([_bytes(request.user) for request in requests], tf.string)
    if name in ("history", "include", "exclude"):
        return _padded(tf, [getattr(request, name) for request in requests])
    if name.startswith(_WHERE):
        return _padded(tf, [request.where.get(name.removeprefix(_WHERE), []) for request in requests])
    if name.startswith(_WEIGHT):
        feature = name.removeprefix(_WEIGHT)
        return _padded_weights(tf, [request.features.get(feature, {}) for request in requests])
    values = [request.features.get(name) for request in requests]
    if len(spec.shape) == 2:
        if spec.dtype == tf.string:
            return _padded(tf, [list(value or []) for value in values])
        return _vectors(tf, name, spec, values)
    if spec.dtype == tf.string:
        return tf.constant([_bytes(str(value or "")) for value in values], tf.string)
    return tf.constant([math.nan if value is None else value for value in values], spec.dtype)


def _padded(tf, lists: list[list[str]]):
    width = max(map(len, lists))
    keys = [_bytes(key) for row in lists for key in (*row, *[""] * (width - len(row)))]
    return tf.constant(keys, tf.string, shape=[len(lists), width])


def _padded_weights(tf, lists: list[dict[str, float]]):
    """In the shape of the keys of the same lists."""
    width = max(map(len, lists))
    return tf.constant(
        [[*row.values(), *[0.0] * (width - len(row))] for row in lists], tf.float32, shape=[len(lists), width]
    )


def _vectors(tf, name: str, spec, values: list[list[float] | None]):
    dim = spec.shape[1]
    for value in values:
        if value is not None and len(value) != dim:
            raise ExportError(f"features.{name}: expected {dim} numbers, found {len(value)}")
    return tf.constant([[math.nan] * dim if value is None else value for value in values], spec.dtype)


def _entries(items, scores) -> list[dict]:
    """One user's list; "" fills it up when fewer than k items are left."""
    return [
        {"item": item.decode("utf-8", "replace"), "score": float(score)}
        for item, score in zip(items, scores, strict=True)
        if item
    ]


def read_metadata(path: str) -> dict:
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
    if not isinstance(document.get("inputs", {}), dict):
        raise ValueError("inputs is of another type")
    if not all(isinstance(user, str) for user in document["example_users"]):
        raise ValueError("example_users are not all text")


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
