"""What COMMITTED must hold before it is used: anyone who may write a run's directory can forge one."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from configs.system.storage import inner_path

Count = Annotated[int, Field(ge=0, lt=2**48, strict=True)]
InnerPath = Annotated[str, AfterValidator(inner_path)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")  # a later version's keys


class _File(_Part):
    bytes: Count
    crc32c: str


class _Layout(_Part):
    rows: Count
    parts: list[tuple[str, Count]]
    pieces: list[Count]


class _Base(_Part):
    step: Count
    id: str


class _Manifest(_Part):
    step: Count
    kind: Literal["full", "increment"]
    id: str
    base: _Base | None
    identity: dict
    time: float
    tables: dict[InnerPath, _Layout]
    files: dict[InnerPath, _File]


_ADAPTER = TypeAdapter(_Manifest)


def check_manifest(manifest: dict) -> None:
    """Raises ValueError: a key is missing, or its value is none that a checkpoint has; names the key."""
    try:
        found = _ADAPTER.validate_python(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if (found.kind == "increment") != (found.base is not None):
        raise ValueError("base: an increment has one, and nothing else")
    if found.base is not None and found.base.step >= found.step:
        raise ValueError("base.step: must be before the increment's own")
