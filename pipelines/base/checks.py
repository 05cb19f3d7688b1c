"""Whether a dataset can stand on a base: rows, keys and features mean the same, and no file is read twice."""

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from absl import logging

from configs.dataset_parts import FeatureInfo
from configs.errors import DataError
from configs.manifest import Dataset
from configs.sections.dataset import DatasetConfig, GivenIdsConfig, HashIdsConfig, IdsConfig, VocabIdsConfig
from configs.sections.features import CrossFeatureConfig, FeatureConfig, table_of
from configs.sections.sources import SourceConfig
from configs.system.storage import is_remote
from pipelines.base.chain import Base, open_base
from pipelines.base.statistics import other_buckets
from pipelines.sources.identity import SourceFile, look, with_content

_ROLES = ("user", "item", "label", "timestamp", "weight")
_SETTINGS = ("positive", "counted_rows", "keep_negatives", "min_label", "history_length", "history_of")
_OWN = ("user", "item")
_ONCE = "leave it out, because a day counts once"


def checked_base(source: SourceConfig, dataset: DatasetConfig) -> Base | None:
    """The chain of dataset.base; None: there is no base.

    Raises:
      DataError: it cannot be opened, or the source's rows would not mean what the base's mean.
    """
    if dataset.base is None:
        return None
    base = open_base(dataset.base.rstrip("/"))
    if any(_same_place(below.path, dataset.path) for below in base.datasets):
        raise DataError(
            f"dataset.path: {dataset.path} is one of the datasets that dataset.base {dataset.base} stands "
            "on; set another dataset.path"
        )
    if difference := next(_differences(source, dataset, base.top), None):
        raise DataError(
            f"dataset.base: {base.top.path} was prepared otherwise: {difference}. Set it as "
            "there, or prepare all rows anew without dataset.base"
        )
    return base


def _same_place(path: str, other: str) -> bool:
    if is_remote(path) or is_remote(other):
        return path.rstrip("/") == other.rstrip("/")
    return os.path.realpath(path) == os.path.realpath(other)


def _differences(source: SourceConfig, dataset: DatasetConfig, top: Dataset) -> Iterator[str]:
    """How the source and the settings differ from the base's, where both must be the same."""
    had = {
        "user": "user" in top.tables,
        "item": "item" in top.tables,
        "label": top.has_label,
        "timestamp": _has_timestamp(top),
        "weight": top.has_weight,
    }
    for role in _ROLES:
        if (has := getattr(source.roles, role) is not None) != had[role]:
            yield f"source.roles.{role} is {'set' if has else 'null'} here, there it is not"
    if sorted(source.roles.labels) != sorted(top.labels):
        yield f"source.roles.labels are {_listed(source.roles.labels)} here, {_listed(top.labels)} there"
    cleans = getattr(source, "clean_keys", None)
    if cleans is not None and cleans != top.source.get("clean_keys", cleans):
        yield f"source.clean_keys is {_shown(cleans)} here, {_shown(not cleans)} there"
    for name in _SETTINGS:
        if (here := getattr(dataset, name)) != (there := top.section.get(name)):
            yield f"dataset.{name} is {_shown(here)} here, {_shown(there)} there"
    for table, ids in _ids_of(source, dataset).items():
        if table in top.tables:
            yield from _differences_of_ids(table, ids, top)
    yield from _differences_of_features(source.all_features, top)
    if not dataset.refresh_statistics:
        yield from other_buckets(source.all_features, top)


def _has_timestamp(top: Dataset) -> bool:
    roles = top.source.get("roles")  # planted sources always have one
    return roles is None or roles.get("timestamp") is not None


def _listed(names: Sequence[str] | dict[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)


def _ids_of(source: SourceConfig, dataset: DatasetConfig) -> dict[str, IdsConfig]:
    """The ids of each table of keys."""
    found: dict[str, IdsConfig] = {"user": dataset.user_ids, "item": dataset.item_ids}
    for feature in source.all_features:
        if isinstance(feature, CrossFeatureConfig):
            found[feature.name] = HashIdsConfig(kind="hash", rows=feature.rows)
        elif table := table_of(feature):
            found[table] = dataset.feature_ids.get(table, VocabIdsConfig())
    return found


def _differences_of_ids(table: str, ids: IdsConfig, top: Dataset) -> Iterator[str]:
    name = f"dataset.{table}_ids" if table in _OWN else f"dataset.feature_ids.{table}"
    info = top.tables[table]
    if info.ids == "buckets":
        return
    if ids.kind != info.ids:
        yield f"{name}.kind is {ids.kind} here, {info.ids} there"
    elif isinstance(ids, HashIdsConfig) and ids.rows != info.rows:
        yield f"rows of table {table} are {ids.rows:,} here, {info.rows:,} there"
    elif isinstance(ids, GivenIdsConfig) and table in _OWN:
        yield f"{name}.kind given has no ids that could be continued; vocab and hash have"
    elif isinstance(ids, GivenIdsConfig):
        before = top.dataset["feature_ids"][table]
        known = {file.path: file.content for file in top.source_files}
        if with_content(look(ids.path, name)).content != known.get(before["path"]):
            yield f"{name}.path {ids.path} has other keys than {before['path']} had there"
        if ids.oov_rows != before["oov_rows"]:
            yield f"{name}.oov_rows is {ids.oov_rows} here, {before['oov_rows']} there"


def _differences_of_features(features: Sequence[FeatureConfig], top: Dataset) -> Iterator[str]:
    here = {feature.name for feature in features}
    if new := sorted(here - top.features.keys()):
        yield f"feature {new[0]} is not there"
    if gone := sorted(top.features.keys() - here):
        yield f"feature {gone[0]} is only there"
    for feature in features:
        info = top.features[feature.name]
        for name, value in _meaning(feature).items():
            if value != (there := _there(info, name)):
                yield f"feature {feature.name}: {name} is {_shown(value)} here, {_shown(there)} there"


def _meaning(feature: FeatureConfig) -> dict[str, Any]:
    """What of a feature its values depend on."""
    found: dict[str, Any] = {"of": feature.of, "kind": feature.kind, "table": table_of(feature)}
    for name in ("max_length", "dim", "keys", "steps"):
        if hasattr(feature, name):
            found[name] = getattr(feature, name)
    if hasattr(feature, "weights"):
        found["weights"] = feature.weights is not None
    return found


def _there(info: FeatureInfo, name: str) -> Any:
    return info.weighted if name == "weights" else getattr(info, name)


def check_files(base: Base | None, source: SourceConfig, files: Sequence[SourceFile]) -> None:
    """Refuses a source that a dataset of the chain has read.

    Args:
      base: None: there is nothing to check.
      files: those of the interactions, with their content.

    Raises:
      DataError: names the file and the dataset.
    """
    for dataset in base.datasets if base else ():
        if not files and dataset.source == source.model_dump(mode="json"):
            raise DataError(f"source: {dataset.path} holds the same rows; {_ONCE}")
        before = {file.path: file for file in dataset.all_source_files}
        contents = {file.content: file.path for file in dataset.all_source_files}
        for file in files:
            if file.name in before and file.content == before[file.name].content:
                raise DataError(
                    f"{file.name}: {dataset.path}, which dataset.base leads to, has read it; {_ONCE}"
                )
            if file.name in before:
                logging.warning(
                    "%s: has changed since %s read it; rows that were in it then are read twice",
                    *(file.name, dataset.path),
                )
            elif file.content in contents:
                logging.warning(
                    "%s: has the content of %s, which %s has read; equal rows count twice",
                    *(file.name, contents[file.content], dataset.path),
                )
