"""The base of every configuration section: frozen, refuses unknown keys, strict about booleans."""

import os
import re
from collections.abc import Callable
from typing import Annotated, Any, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

# Each layer adds an offset to its seed, and the ops that receive it take int32.
Seed = Annotated[int, Field(ge=0, le=2**30)]


def lone_slash_scheme(path: str) -> str | None:
    """The scheme, such as `gs:`, of a URL that lacks a slash after it, as in gs:/bucket; None: it is none."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+:)/(?!/)", path)
    return found[1] if found else None


def _expanded(path: str) -> str:
    # fsspec expands ~ but TensorFlow does not, so it is expanded here, once.
    if "::" in path:
        raise ValueError("'::' chains file systems in fsspec; use a path without it")
    return os.path.expanduser(path)


Path = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]


def _kept_at(path: str) -> str:
    """A path that both TensorFlow and fsspec can open; file:// is dropped from local paths."""
    path = path.removeprefix("file://")
    if "://" in path and not path.startswith("gs://"):
        raise ValueError(f"{path} is neither a local directory nor gs://bucket/directory; use one of them")
    if scheme := lone_slash_scheme(path):
        raise ValueError(
            f"{path} would be a local directory named {scheme}; write gs://bucket/directory for a bucket, or "
            f"./{path} for that directory"
        )
    return path


KeptAt = Annotated[Path, AfterValidator(_kept_at)]


class Section(BaseModel):
    """One level of a run configuration. Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_not_numbers(cls, values: Any) -> Any:
        # Pydantic accepts true as 1, and YAML reads yes and on as true.
        if isinstance(values, dict):
            wrong = [
                InitErrorDetails(type=_NO_BOOLEAN, loc=(name,), input=value)
                for name, value in values.items()
                if isinstance(value, bool) and name in cls.model_fields
                if bool not in (annotation := cls.model_fields[name].annotation, *get_args(annotation))
            ]
            if wrong:
                raise ValidationError.from_exception_data(cls.__name__, wrong)
        return values


_NO_BOOLEAN = PydanticCustomError(
    "boolean", "true and false (also written yes, no, on, off) are not allowed here"
)


_CHOICE = "<{}>"  # pydantic puts it into the location of an error; no key has such a name


def choice(name: str) -> Tag:
    """Marks a member of a union without `kind`."""
    return Tag(_CHOICE.format(name))


def chosen_by(name_of: Callable[[Any], str]) -> Discriminator:
    """Marks a union without `kind`: one member is chosen by a raw value, so that a mistake is one error."""
    return Discriminator(lambda value: _CHOICE.format(name_of(value)))


def is_choice(part: str) -> bool:
    """Whether a part of an error's location is not a key but a member of such a union."""
    return part.startswith("<")


def of_kind(default: str) -> BeforeValidator:
    """Marks a union of sections: one that names no kind is of the default kind."""
    return BeforeValidator(
        lambda value: {"kind": default, **value} if isinstance(value, dict) else value,
    )
