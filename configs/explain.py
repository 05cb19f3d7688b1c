"""Every configuration key with its default and its description, as text."""

import datetime
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from configs.load import section_types
from configs.schema import RunConfig


def explain(document: type[BaseModel] = RunConfig) -> str:
    """One line per key of a kind of document: dotted name, default (or `required`), allowed values,
    description."""
    return "\n".join(_lines(document, ""))


_TYPES: dict[Any, str] = {datetime.datetime: "time"}
"""What types are called whose own name says less."""


def _lines(model: type[BaseModel], prefix: str) -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        default = "required" if field.is_required() else _short(field.get_default(call_default_factory=True))
        sections = section_types(field.annotation)
        parts = [key, f"[{default}]", _allowed(field), " ".join((field.description or "").split())]
        lines.append("  ".join(part for part in parts if part))
        for section in sections:
            kind = section.model_fields.get("kind")
            tag = f"({typing.get_args(kind.annotation)[0]})" if kind and len(sections) > 1 else ""
            inside = "*" if typing.get_origin(field.annotation) in (dict, list) else ""
            lines += _lines(section, f"{key}{tag}.{inside + '.' if inside else ''}")
    return lines


def _allowed(field: FieldInfo) -> str:
    """Names a value may take, or its type and bounds: `(mean | sum)`, `(int, >= 1)`; "" for sections."""
    forms = typing.get_args(field.annotation) or (field.annotation,)
    named = [form for form in forms if form is not type(None)]
    if len(named) == 1 and typing.get_origin(named[0]) is typing.Literal:  # beside None
        forms = typing.get_args(named[0])
        return f"({' | '.join(map(str, forms))})" if len(forms) > 1 else ""
    if typing.get_origin(field.annotation) is typing.Literal:
        return f"({' | '.join(map(str, forms))})" if len(forms) > 1 else ""
    types = [_TYPES.get(form, form.__name__) for form in forms if form in (int, float, str, bool, *_TYPES)]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [
        f"{sign} {getattr(mark, name)}"
        for mark in field.metadata
        for name, sign in signs.items()
        if getattr(mark, name, None) is not None
    ]
    if typing.get_origin(field.annotation) in (list, dict) or not types:
        return ""
    return f"({', '.join([*types, *bounds])})"


def _short(value: object) -> str:
    if isinstance(value, BaseModel):
        return getattr(value, "kind", "section")
    return repr(value)
