"""Sends requests to an exported model; needs only the SavedModel."""

import json
import math
from collections.abc import Iterator

from configs.errors import ExportError
from configs.system.storage import exists, join, read_bytes
from trainer.serving.requests import FORMS, Request

_METADATA = "assets.extra/lazytower.json"
_KEYS: dict[str, type] = {"name": str, "step": int, "weights": str}
_KEYS_OF: dict[str, dict[str, type]] = {
    "retrieval": {"max_k": int, "exclude_seen": bool, "users": dict, "example_users": list},
    "ranking": {"tasks": list, "inputs": dict},
}
_ASKED_BY = {"retrieval": "recommend", "ranking": "predict"}
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


def step_text(metadata: dict) -> str:
    """The checkpoint that a model was exported from, in words."""
    chosen = metadata.get("chosen", "newest")  # older exports do not say
    return f"step {metadata['step']}" + (f" ({chosen})" if chosen != "newest" else "")


def export_directory(args, family: str) -> str:
    """The export directory that --model, or --config and --set, name.

    Args:
      args: flags from configs.arguments.add_model_arguments.
      family: of models that the command asks, as model.family.

    Raises:
      ExportError: the flags do not fit together, or the config's model is of another family.
      ConfigError: as configs.load.load_config.
    """
    if args.model:
        if args.overrides:
            raise ExportError(f"--set {args.overrides[0]}: changes a config; replace --model by --config")
        return args.model
    from configs.load import load_config

    config = load_config(args.config, args.overrides)
    _check_family(f"{args.config}: model.kind {config.model.kind}", config.model.family, family)
    return config.export_path


def _check_family(what: str, found: object, family: str) -> None:
    if found != family:
        command = _ASKED_BY.get(str(found))
        advice = f"use `lazytower {command}`" if command else "use a newer version of lazytower"
        raise ExportError(f"{what}: `lazytower {_ASKED_BY[family]}` asks {family} models; {advice}")


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
    tf = start_for(path)
    signature = load_signature(tf, path, "recommend")
    specs = signature.structured_input_signature[1]
    for start in range(0, len(requests), _AT_ONCE):
        batch = requests[start : start + _AT_ONCE]
        given = {
            name: input_values(tf, name, spec, batch) for name, spec in specs.items() if name not in _FLAGS
        }
        answer = signature(k=tf.constant(k), exclude_seen=tf.constant(exclude_seen), **given)
        answer = {name: value.numpy() for name, value in answer.items()}
        for i, request in enumerate(batch):
            yield {
                "user": request.user,
                "known": bool(answer["known"][i]),
                "items": _entries(answer["items"][i], answer["scores"][i]),
            }


def start_for(path: str, deterministic: bool = False):
    """TensorFlow, started with the operations that a retrieval model needs; raises as `recommend`."""
    from configs.sections.devices import CpuDeviceConfig
    from configs.sections.export import package_of
    from trainer.runtime import start_tensorflow

    # Exports from before there were indexes do not name one.
    kind = read_metadata(path, "retrieval").get("index", {}).get("kind")
    tf = start_tensorflow(CpuDeviceConfig(), deterministic)
    if package := package_of(kind):
        from trainer.indexes.packages import load_operations

        load_operations(package, f"{path}, exported with export.index.kind: {kind},")
    return tf


def load_model(tf, path: str):
    """The SavedModel at `path`; `tf` is TensorFlow. ExportError when it cannot be loaded."""
    from trainer.serving.versions import loadable

    try:
        with loadable(path) as place:
            return tf.saved_model.load(place)
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ExportError(f"{path}: cannot be loaded ({str(error).splitlines()[0]})") from None


def load_signature(tf, path: str, name: str):
    """A signature of the SavedModel at `path`; raises as `load_model`."""
    model = load_model(tf, path)
    if name not in model.signatures:
        raise ExportError(f"{path}: cannot be loaded (it has no signature {name})")
    return model.signatures[name]


def input_values(tf, name: str, spec, requests: list):
    """An input of a signature, from the Request or RowRequest of each row of a batch."""
    if name in ("user", "item"):
        return tf.constant([_bytes(getattr(request, name)) for request in requests], tf.string)
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


def read_metadata(path: str, family: str = "retrieval") -> dict:
    """lazytower.json of a version.

    Raises:
      ExportError: it is missing or torn, or the model is not of this family, as model.family.
    """
    try:
        document = json.loads(read_bytes(join(path, _METADATA)))
        found = _family_of(document)
        if found == family:
            _check_metadata(document, family)
    except (OSError, ValueError, RecursionError):
        raise ExportError(
            f"{path}: has no readable {_METADATA}; was it written by `lazytower export`?"
        ) from None
    _check_family(f"{path}: a {found} model", found, family)
    return document


def version_facts(path: str) -> dict:
    """What lazytower.json of a version says, of any family; {} if it is missing or torn."""
    try:
        document = json.loads(read_bytes(join(path, _METADATA)))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _family_of(document: object) -> str:
    if not isinstance(document, dict) or not isinstance(document.get("family", ""), str):
        raise ValueError("not an object, or its family is not text")
    return document.get("family", "retrieval")  # exports from before there were others do not name it


def _check_metadata(document: dict, family: str) -> None:
    """Raises ValueError unless what is read of it has the right type."""
    for key, kind in (_KEYS | _KEYS_OF[family]).items():
        if not isinstance(document.get(key), kind):
            raise ValueError(f"{key} is missing, or of another type")
    if not isinstance(document.get("inputs", {}), dict):
        raise ValueError("inputs is of another type")
    _CHECKS[family](document)


def _check_retrieval(document: dict) -> None:
    index = document.get("index", {})
    if not isinstance(index, dict) or not isinstance(document["users"].get("ids"), str):
        raise ValueError("index or users.ids is of another type")
    if not all(isinstance(user, str) for user in document["example_users"]):
        raise ValueError("example_users are not all text")


def _check_ranking(document: dict) -> None:
    features = document["inputs"].get("features")
    if not isinstance(features, dict) or not set(features.values()) <= set(FORMS):
        raise ValueError("inputs.features is of another type")
    if not all(isinstance(task, dict) and isinstance(task.get("name"), str) for task in document["tasks"]):
        raise ValueError("a task has no name")


_CHECKS = {"retrieval": _check_retrieval, "ranking": _check_ranking}


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
