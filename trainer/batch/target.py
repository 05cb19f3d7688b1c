"""Where a batch output is written, so that a job that was killed at any moment can continue.

shop-topk/
  manifest.json                 last of all: the output is complete
  topk-00000-of-00040.parquet   appears when it is complete and verified
  .unfinished/                  until the manifest is written
    request.json                first of all: what the output is of
    parts.json                  the shards, when their keys are spooled
    keys-00000.parquet          keys of a shard's users
    topk-00003-of-00040.parquet.tmp
    topk-00000-of-00040.parquet.json   rows, bytes and checksum: the shard is finished
"""

import json
from typing import Any, NamedTuple

import google_crc32c

from configs.errors import DataError, UserError
from configs.system import storage
from trainer.batch.request import difference, fingerprint
from trainer.run_lock import LOCK_FILE

MANIFEST = "manifest.json"
STATE = ".unfinished"
_CHUNK = 4 << 20


class Shard(NamedTuple):
    """A shard to be written."""

    name: str
    """Of its file."""
    rows: int
    """Number of rows; -1: known only when they are read."""
    of: str
    """What the rows are, in the terms of the table: users, items or rows."""
    source: str
    """Where the worker finds them, in the terms of the table."""


class Target:
    """The directory of an output.

    Args:
      path: local, or in an object store.
      document: from trainer.batch.request.request_document.
    """

    def __init__(self, path: str, document: dict):
        self.path, self.document = path.rstrip("/") or "/", document
        self.state = storage.join(self.path, STATE)

    def begin(self, overwrite: bool) -> dict | None:
        """The manifest if the output is complete already; None: it has to be written, or continued.

        Raises:
          DataError: something else is at this place.
        """
        if overwrite:
            self._clear()
        if (manifest := _document(self.path, MANIFEST)) is not None:
            self._check(manifest, "holds a finished output")
            if not (damage := self._damage(manifest)):
                storage.remove(self.state)  # left by a job that was killed after it had written the manifest
                return manifest
            raise DataError(f"{self.path}/{damage}; pass --overwrite to write the output again")
        if (request := _document(self.state, "request.json")) is not None:
            self._check(request, "holds an unfinished output")
            return None
        if found := [name for name in storage.names(self.path) if name not in (STATE, LOCK_FILE)]:
            raise DataError(f"{self.path}: holds other files ({found[0]}); choose an empty or new directory")
        storage.make_directory(self.state)
        self._write("request.json", {"request": self.document, "fingerprint": fingerprint(self.document)})
        return None

    def parts(self) -> list[Shard] | None:
        """Shards as an earlier run of the same job planned them; None: it did not come that far."""
        document = _document(self.state, "parts.json")
        return None if document is None else [Shard(**part) for part in document["parts"]]

    def plan(self, parts: list[Shard]) -> None:
        """Keeps the shards."""
        self._write("parts.json", {"parts": [part._asdict() for part in parts]})

    def finished(self, part: Shard) -> dict[str, Any] | None:
        """Rows, bytes and checksum of a shard that is finished and undamaged."""
        facts = _document(self.state, f"{part.name}.json")
        if facts is None or checksum(storage.join(self.path, part.name)) != (facts["bytes"], facts["crc32c"]):
            return None
        return facts

    def complete(self, parts: list[Shard]) -> dict[str, Any]:
        """Writes the manifest, and returns it.

        Raises:
          DataError: a worker wrote elsewhere.
        """
        shards = []
        for part in parts:
            facts = _document(self.state, f"{part.name}.json")
            if facts is None:
                raise DataError(
                    f"{self.path}: the job succeeded, but {part.name} is not here: its workers wrote to "
                    "another disk; use gs:// in --to"
                )
            shards.append({"name": part.name, "of": part.of} | facts)
        counts: dict[str, int] = {}
        for shard in shards:
            counts[shard["of"]] = counts.get(shard["of"], 0) + shard["rows"]
        manifest = {
            "request": self.document,
            "fingerprint": fingerprint(self.document),
            "counts": counts,
            "shards": shards,
        }
        storage.sync_directory(self.path)
        storage.write_bytes(storage.join(self.path, MANIFEST), json.dumps(manifest, indent=1).encode())
        storage.remove(self.state)
        return manifest

    def _write(self, name: str, document: dict) -> None:
        storage.write_bytes(storage.join(self.state, name), json.dumps(document, indent=1).encode())

    def _check(self, found: dict, what: str) -> None:
        if found.get("fingerprint") != fingerprint(self.document):
            differs = difference(found.get("request", {}), self.document)
            raise DataError(
                f"{self.path}: {what} of something else ({differs}); "
                "choose another --to, or pass --overwrite to replace it"
            )

    def _damage(self, manifest: dict) -> str:
        """Which file of a finished output is missing or of another size; "" if none is."""
        for shard in manifest["shards"]:
            name = storage.inner_path(shard["name"])
            fs, place = storage.filesystem(storage.join(self.path, name))
            try:
                size = fs.info(place)["size"]
            except FileNotFoundError:
                return f"{name}: is missing"
            if size != shard["bytes"]:
                return f"{name}: has {size:,} bytes, not {shard['bytes']:,}"
        return ""

    def _clear(self) -> None:
        """Removes an output, the manifest first, and nothing else."""
        documents = _document(self.path, MANIFEST), _document(self.state, "parts.json")
        storage.remove(storage.join(self.path, MANIFEST))
        for shard in [s for d in documents if d for s in d.get("shards", d.get("parts", []))]:
            storage.remove(storage.join(self.path, storage.inner_path(shard["name"])))
        storage.remove(self.state)


def checksum(path: str) -> tuple[int, str] | None:
    """(bytes, CRC-32C in hexadecimal) of a file; None: there is none."""
    found, size = google_crc32c.Checksum(), 0
    try:
        with storage.reading(path) as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
                size += len(chunk)
    except FileNotFoundError:
        return None
    return size, found.hexdigest().decode()


def read_manifest(path: str) -> dict:
    """The manifest of a finished output; DataError when there is none."""
    manifest = _document(path, MANIFEST)
    if manifest is None:
        raise DataError(f"{path}: holds no {MANIFEST}; run `lazytower score --to {path}` to its end")
    return manifest


def _document(directory: str, name: str) -> dict | None:
    path = storage.join(directory, name)
    try:
        found = json.loads(storage.read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise DataError(f"{path}: is not JSON; pass --overwrite to write the output again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: was not written by `lazytower score`; choose another directory")
    return found
