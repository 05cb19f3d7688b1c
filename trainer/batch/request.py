"""What a batch output is of: the model, the users, the options. Its fingerprint tells outputs apart."""

import dataclasses
import hashlib
import json
from typing import Any

from configs.errors import ExportError
from configs.system.storage import join, read_bytes
from trainer.version import VERSION

# They hold the graph, the checksums of all weights, and what the model was made of.
_IDENTIFYING = ("assets.extra/lazytower.json", "saved_model.pb", "variables/variables.index")


_ENTRIES = 1 << 24
"""Items with their scores in a shard, by default: some seconds' work, and about 100 MB as Parquet."""
_MOST_ROWS = 1 << 20


def default_shard_rows(k: int) -> int:
    """Users of a file with k items for each; 0: without lists."""
    return min(_MOST_ROWS, _ENTRIES // k) if k else _MOST_ROWS


@dataclasses.dataclass(frozen=True)
class BatchOptions:
    """Options of an output; all of them decide about its bytes."""

    what: str
    """Key of trainer.batch.tables.TABLES."""
    format: str
    """Key of trainer.batch.formats.FORMATS."""
    shard_rows: int = 0
    """Most rows of a file; 0 where the files follow the ranges of a source."""
    k: int = 0
    """Items per user; 0 where there are no lists of items."""
    exclude_seen: bool = False
    """Leave out items that a user has seen."""
    exclude: tuple[str, ...] = ()
    """Keys of items."""
    include: tuple[str, ...] = ()
    """Keys of the only items that may return; none: all."""
    where: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Names of item features, and the values of which an item must have one."""
    source: str = ""
    """What is read of the source, as JSON, where rows of one are scored."""


def check_version(path: str) -> None:
    """Raises ExportError if the retrieval model at `path` is of a version that cannot be asked for all users.

    The names of a SavedModel's functions stand in its graph as they are, so TensorFlow need not load it.
    """
    try:
        content = read_bytes(join(path, "saved_model.pb"))
    except OSError as error:
        raise ExportError(f"{path}: cannot be read ({error}); run `lazytower export` again") from None
    if b"recommend_rows" not in content:
        raise ExportError(f"{path}: exported by an earlier version; run `lazytower export` again")


def model_identity(path: str, metadata: dict) -> dict[str, Any]:
    """What the manifest says of the model at `path`, wherever it lies.

    Raises:
      ExportError: its files cannot be read.
    """
    digest = hashlib.sha256()
    for name in _IDENTIFYING:
        try:
            content = read_bytes(join(path, *name.split("/")))
        except OSError as error:
            raise ExportError(f"{path}: cannot be read ({error}); run `lazytower export` again") from None
        digest.update(hashlib.sha256(content).digest())
    facts = {name: metadata.get(name) for name in ("name", "version", "step", "weights", "recommended_items")}
    return facts | {"dataset_fingerprint": metadata.get("dataset_fingerprint"), "sha256": digest.hexdigest()}


def request_document(model: dict, rows: dict, options: BatchOptions) -> dict[str, Any]:
    """All that decides about an output, as JSON values.

    Args:
      model: from `model_identity`.
      rows: of what: the identity of the users or of the source.
    """
    plain = json.loads(json.dumps(dataclasses.asdict(options)))
    return {"lazytower": VERSION, "model": model, "rows": rows, "options": plain}


def fingerprint(document: dict) -> str:
    """SHA-256 of a document."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def difference(found: dict, wanted: dict) -> str:
    """The first difference of two request documents, for messages: "options.k 10, not 20"."""
    for name in wanted:
        one, other = found.get(name), wanted[name]
        if one == other:
            continue
        if isinstance(one, dict) and isinstance(other, dict):
            return f"{name}.{difference(one, other)}"
        return f"{name} {json.dumps(one)}, not {json.dumps(other)}"
    return "other content"
