"""Asks an exported model; needs nothing but the SavedModel."""

import json

from configs.errors import ExportError
from configs.system.storage import exists, join, read_bytes

_METADATA = "assets.extra/lazytower.json"
_KEYS = {
    **{"name": str, "step": int, "weights": str, "max_k": int, "exclude_seen": bool},
    **{"users": dict, "example_users": list},
}


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
    if not all(isinstance(user, str) for user in document["example_users"]):
        raise ValueError("example_users are not all text")


def _bytes(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
