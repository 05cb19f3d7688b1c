"""Reads a run's YAML, applies --set overrides, and turns every mistake into one clear line."""

import copy
import difflib
import io
import re
import types
import typing

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.errors import ConfigError
from configs.schema import RunConfig
from configs.sections.base import is_choice
from configs.system import storage
from configs.system.terminal import bounded, shown

ModelT = typing.TypeVar("ModelT", bound=BaseModel)
_MOST_ERRORS = 20  # shown at most
_MOST_VALUES = (
    100_000  # of a document; more come from aliases of aliases, whose error message would fill the disk
)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice in one mapping."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[typing.Any, typing.Any]:
    seen = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(
                None, None, "keys must be text, this one is a mapping or a list", key.start_mark
            )
        if key.value in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"duplicate key {key.value!r}", key.start_mark
            )
        seen.add(key.value)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# YAML 1.1 reads 1e-3 as text, but a config means a number.
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def load_config(path: str, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Reads and validates a run configuration.

    Args:
      path: YAML file, local or gs://.
      overrides: "a.b=c" strings; c is YAML. Lists take their index: "source.paths.0=x". A section's `kind`
        is set before its other keys.

    Raises:
      ConfigError: names the file, the key, the value found and what is allowed.
    """
    return parse_config(overridden(read_document(path), overrides), path)


def parse_config(document: dict[str, typing.Any], origin: str) -> RunConfig:
    """Validates a plain document; `origin` is named in errors. Raises ConfigError."""
    return parse_as(RunConfig, document, origin)


def parse_as(model: type[ModelT], document: dict[str, typing.Any], origin: str) -> ModelT:
    """As parse_config, of documents of another kind: `model` is their outermost section."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = error.errors()
        lines = [f"{origin}: {bounded(_explain(e, model), 1000)}" for e in errors[:_MOST_ERRORS]]
        if len(errors) > _MOST_ERRORS:
            lines.append(f"{origin}: {len(errors) - _MOST_ERRORS:,} more errors")
        raise ConfigError("\n".join(lines)) from None


def overridden(document: dict[str, typing.Any], overrides: typing.Iterable[str]) -> dict[str, typing.Any]:
    """A copy of a plain document with overrides as in load_config. Raises ConfigError."""
    document = copy.deepcopy(document)
    for override in _kinds_first(list(overrides)):
        _apply(document, override)
    return document


def dump_config(config: RunConfig) -> str:
    """YAML of the resolved configuration; loading it gives the same configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_document(path: str) -> dict[str, typing.Any]:
    """The mapping of a YAML file, not validated. Raises ConfigError."""
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, not a config file") from None
    except (OSError, ValueError, ImportError) as error:  # permissions, networks, protocols unknown to fsspec
        raise ConfigError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    try:
        document = _parse(content.decode(), path)
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {bounded(str(error))}") from None
    if not isinstance(document, dict):
        found = "nothing" if document is None else type(document).__name__
        raise ConfigError(f"{path}: must be a mapping of sections, found {found}")
    return document


def _parse(text: str, origin: str) -> typing.Any:
    """The one YAML document of `text`. Raises ValueError: one line that names `origin`, line and column."""
    stream = io.StringIO(text)
    stream.name = origin
    try:
        loader = _StrictLoader(stream)
        node = loader.get_single_node()
        if node is None:
            return None
        _size(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: dates such as 2026-13-01, huge numbers
        raise ValueError(" ".join(str(error).split())) from None


def _size(node: yaml.Node, sizes: dict[int, int | None]) -> int:
    """Number of values below a node, with what aliases repeat. Raises ConstructorError if there are too many.

    Args:
      node: of the document.
      sizes: by id, of the nodes seen so far; None: of nodes above this one.
    """
    if id(node) not in sizes:
        sizes[id(node)] = None
        inner = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in inner)
    size = sizes[id(node)]
    if size is None or size > _MOST_VALUES:
        problem = (
            "an alias contains itself"
            if size is None
            else f"aliases stand for more than {_MOST_VALUES:,} values"
        )
        raise yaml.constructor.ConstructorError(
            None, None, f"{problem}; write the values out", node.start_mark
        )
    return size


def _kinds_first(overrides: typing.Sequence[str]) -> list[str]:
    """Moves a new `kind`, which empties its section, before the other keys of the section; else keeps the
    order."""
    ordered: list[str] = []
    for override in overrides:
        key = override.partition("=")[0]
        section = key.removesuffix("kind")
        inside = [i for i, o in enumerate(ordered) if o.startswith(section) and o.partition("=")[0] != key]
        first = min(inside, default=len(ordered)) if key.endswith(".kind") else len(ordered)
        ordered.insert(first, override)
    return ordered


def _apply(document: dict[str, typing.Any], override: str) -> None:
    """Sets one dotted key in place, creating sections on the way."""
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: not of the form section.key=value; write it so")
    try:
        value = _parse(value, "value")
    except ValueError:
        raise ConfigError(f"--set {bounded(override, 200)}: the value is not valid YAML") from None
    *parents, last = key.split(".")
    node = document
    for part in parents:
        if isinstance(node, list):
            node = node[_index(node, part, override)]
        else:
            if node.get(part) is None:  # absent, or nothing after its colon
                node[part] = {}
            node = node[part]
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        # A section that has several kinds loses the keys of its old kind; a section with one form keeps all.
        chosen = last == "kind" and len(set(_sections_at(parents))) > 1
        if chosen and node.get("kind", value) != value:
            node.clear()
        node[last] = value


def _index(node: list[typing.Any], part: str, override: str) -> int:
    if not (part.isascii() and part.isdigit() and len(part) < 10) or int(part) >= len(node):
        raise ConfigError(
            f"--set {override}: {part!r} is not an index of a list of {len(node)}; count from 0"
        )
    return int(part)


def _explain(error: ErrorDetails, root: type[BaseModel]) -> str:
    """One line for one pydantic error: the key, what is wrong, and similar names for an unknown key."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(_without_tags(location, root)) or "(whole document)"
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "extra_forbidden":
        known = _fields_at(location[:-1], root)
        near = difflib.get_close_matches(location[-1], known, n=1)
        return f"{key}: unknown key" + (
            f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        )
    if kind == "missing":
        return f"{key}: missing; set it"
    if kind == "union_tag_not_found":
        return f"{key}: kind is missing; set it"
    if kind == "union_tag_invalid":
        allowed = error["ctx"]["expected_tags"]
        return f"{key}.kind: {shown(error['ctx']['tag'])} is unknown; allowed: {allowed}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{key}: must be a mapping of keys, found {shown(error['input'])}"
    if kind == "value_error":
        return f"{key}: {message}" if location else message  # spans several sections, which the message names
    return f"{key}: {message}, found {shown(error['input'])}"


def _without_tags(location: list[str], root: type[BaseModel]) -> list[str]:
    """The dotted key as the user wrote it: pydantic puts the kind of a union into the location."""
    return [
        part
        for i, part in enumerate(location)
        if not is_choice(part) and not _is_tag(part, location[:i], root)
    ]


def _is_tag(part: str, location: list[str], root: type[BaseModel]) -> bool:
    """Whether `part` is the kind of a section at `location` and not a key."""
    sections = _sections_at(location, root)
    # In a union pydantic puts the chosen kind before any field, even before a field of that name.
    return len(set(sections)) > 1 and part in map(_kind_of, sections)


def _kind_of(section: type[BaseModel]) -> str | None:
    """The section's `kind`; None: it has none."""
    field = section.model_fields.get("kind")
    return typing.get_args(field.annotation)[0] if field else None


def _fields_at(location: list[str], root: type[BaseModel]) -> list[str]:
    """Names of the fields of the section at `location`."""
    models = _sections_at(location, root)
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _sections_at(location: list[str], root: type[BaseModel] = RunConfig) -> list[type[BaseModel]]:
    """Sections possible at `location` below `root`; the name of a kind selects it from a union."""
    candidates: list[type[BaseModel]] = [root]
    for part in location:
        step = []
        for model in candidates:
            if not (isinstance(model, type) and issubclass(model, BaseModel)):
                continue
            if part in model.model_fields:
                step += section_types(model.model_fields[part].annotation)
        kinds = [model for model in candidates if _kind_of(model) == part]
        candidates = step or kinds or candidates
    return candidates


def section_types(annotation: typing.Any) -> list[type[BaseModel]]:
    """Section classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, dict, typing.Annotated):
        return [model for part in typing.get_args(annotation) for model in section_types(part)]
    return []
