"""COMMITTED as one typed object: parsed, verified and written here and nowhere else.

Anyone who may write a run's directory can forge a manifest, so its values are checked before they are used,
not only its checksum.
"""

import json
from typing import Annotated, Any, Literal

import google_crc32c
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from configs.system.storage import inner_path

Count = Annotated[int, Field(ge=0, lt=2**48, strict=True)]
InnerPath = Annotated[str, AfterValidator(inner_path)]
_VALUE_BYTES, _ID_BYTES = 4, 8


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)  # ignore: a later version may add keys


class CheckpointFile(_Part):
    """One file of a checkpoint."""

    bytes: Count
    """Its size."""
    crc32c: str
    """CRC-32C of its content, eight hexadecimal digits."""


class TableLayout(_Part):
    """How a table's records lie in the files of a checkpoint."""

    rows: Count
    """Rows of the whole table."""
    parts: list[tuple[str, Count]]
    """(name, values) of each part of a record, in order."""
    pieces: list[Count]
    """Records in each file, in order."""

    @property
    def width(self) -> int:
        """Values of a record."""
        return sum(width for _, width in self.parts)

    @property
    def num_records(self) -> int:
        """Records in all files."""
        return sum(self.pieces)

    @property
    def largest_piece_bytes(self) -> int:
        """Bytes of the records of the largest file; 0 without files."""
        return _VALUE_BYTES * self.width * max(self.pieces, default=0)


def table_bytes(layouts: dict[str, TableLayout], ids: bool) -> int:
    """Bytes of the records of tables, and of their ids if `ids`."""
    return sum(
        layout.num_records * (_VALUE_BYTES * layout.width + (_ID_BYTES if ids else 0))
        for layout in layouts.values()
    )


class CheckpointBase(_Part):
    """The checkpoint that an increment builds on."""

    step: Count
    id: str


class StartedFrom(_Part):
    """The checkpoint of another run that a run began with."""

    run: str
    """Directory of that run, as in init.from."""
    step: Count
    """Steps that it had done."""
    id: str
    """As CheckpointHead.id."""
    weights: Literal["average", "raw"]
    """Which of its weights were taken."""
    slots: Literal["keep", "reset"]
    """As init.slots."""


class CheckpointHead(_Part):
    """What is known of a checkpoint before its files are written."""

    step: Count
    """Steps done."""
    kind: Literal["full", "increment"]
    """full: all rows; increment: those touched since `base`."""
    id: str
    """Of the state: a full checkpoint made by compaction has the id of the increment that it replaces."""
    base: CheckpointBase | None
    """Set for increments only."""
    identity: dict[str, Any]
    """What a run must share with its checkpoints: trainer.checkpoints.identity."""
    tables: dict[InnerPath, TableLayout]
    """By table name."""
    started_from: StartedFrom | None = None
    """Where the run began; null: with random weights."""

    @model_validator(mode="after")
    def _has_a_base_before_it(self) -> "CheckpointHead":
        if (self.kind == "increment") != (self.base is not None):
            raise ValueError("base: required for an increment, not allowed for a full checkpoint")
        if self.base is not None and self.base.step >= self.step:
            raise ValueError("base.step: must be less than the increment's own step")
        return self


class CheckpointManifest(CheckpointHead):
    """The whole content of COMMITTED, without its own checksum."""

    time: float
    """When the last file was written, unix seconds."""
    files: dict[InnerPath, CheckpointFile]
    """All files but COMMITTED, by their path inside the checkpoint's directory."""

    @classmethod
    def parse(cls, content: bytes) -> "CheckpointManifest":
        """The manifest in the content of COMMITTED.

        Raises:
          ValueError: not JSON, its checksum differs, or a key is missing or has an invalid value; names the
            key.
        """
        try:
            document = json.loads(content)
            if not isinstance(document, dict) or "crc32c" not in document:
                raise ValueError("not a JSON object with the key crc32c")
            if document.pop("crc32c") != _document_checksum(document):
                raise ValueError("its own checksum differs")
            return cls.model_validate(document)
        except RecursionError as error:
            raise ValueError(str(error)) from None
        except ValidationError as error:
            first = error.errors()[0]
            key = "".join(f"{part}: " for part in [".".join(map(str, first["loc"]))] if part)
            raise ValueError(f"{key}{first['msg'].removeprefix('Value error, ')}") from None

    def encode(self) -> bytes:
        """The content of COMMITTED."""
        document = self.model_dump()
        return json.dumps({**document, "crc32c": _document_checksum(document)}, indent=1).encode()


def checksum_text(checksum: google_crc32c.Checksum) -> str:
    """A checksum as manifests hold it, eight hexadecimal digits."""
    return checksum.hexdigest().decode()


def _document_checksum(document: dict[str, Any]) -> str:
    """CRC-32C of a JSON object, independent of its formatting."""
    return checksum_text(google_crc32c.Checksum(json.dumps(document, sort_keys=True).encode()))
