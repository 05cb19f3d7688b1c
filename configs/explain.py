"""Prints every configuration key with its default and its description, as --explain does."""

import typing

from pydantic import BaseModel

from configs.load import section_types
from configs.schema import RunConfig


def explain() -> str:
    """One line per key: dotted name, default (or `required`), description."""
    return "\n".join(_lines(RunConfig, ""))


def _lines(model: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        key = prefix + name
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        sections = section_types(field.annotation)
        lines.append(f"{key}  [{default}]  {' '.join((field.description or '').split())}")
        for section in sections:
            kind = section.model_fields.get("kind")
            tag = f"({typing.get_args(kind.annotation)[0]})" if kind and len(sections) > 1 else ""
            inside = "*" if typing.get_origin(field.annotation) in (dict, list) else ""
            lines += _lines(section, f"{key}{tag}.{inside + '.' if inside else ''}")
    return lines


def _short(value) -> str:
    if isinstance(value, BaseModel):
        return getattr(value, "kind", "section")
    return repr(value)
