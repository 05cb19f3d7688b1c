"""Whether the dataset exists already: from the same source, with the same settings, and undamaged."""

import json
from typing import Any

from absl import logging
from pydantic import ValidationError

from configs.dataset_parts import FileInfo, SourceFileInfo
from configs.errors import DataError
from configs.manifest import MANIFEST_FILE, Dataset, load_dataset
from configs.sections.dataset import DatasetConfig
from configs.sections.sources import SourceConfig
from configs.system import storage
from pipelines.base.chain import Base
from pipelines.manifest import plain_source, source_fingerprint
from pipelines.sources.identity import SourceFile, each, look, with_content


def find_existing(
    target: str,
    source: SourceConfig,
    files: list[SourceFile],
    dataset: DatasetConfig,
    base: Base | None = None,
) -> Dataset | None:
    """The dataset at the target if it is the requested one; None: there is none, or it is damaged.

    Args:
      source, dataset: sections of a RunConfig.
      files: the current files of the source.
      base: the dataset on which it is to stand.

    Raises:
      DataError: there is a different dataset.
    """
    if not storage.exists(f"{target}/{MANIFEST_FILE}"):
        return None
    found = _load(target)
    if found is None:
        return None
    if difference := _difference(found, source, files, dataset):
        raise DataError(
            f"{target}: already has a dataset prepared from {difference}; "
            "pass --overwrite to replace it, or set another dataset.path"
        )
    if base and found.base and found.base.fingerprint not in base.top.fingerprints:
        raise DataError(
            f"{target}: was prepared on {base.top.path} (dataset.base) before that was rebuilt, so their "
            "ids do not match; pass --overwrite to prepare it on the new one"
        )
    damage = [what for what in each(lambda info: _damage(found, info), found.all_files) if what]
    if damage:
        others = f", and {len(damage) - 1:,} more files are damaged" if damage[1:] else ""
        logging.warning("%s: damaged: %s%s; preparing the dataset again", target, damage[0], others)
        return None
    return found


def is_folded(target: str) -> bool:
    """Whether a dataset is there that `prepare --compact` has made independent of its base."""
    found = _load(target) if storage.exists(f"{target}/{MANIFEST_FILE}") else None
    return found is not None and found.base is None and bool(found.folds)


def _load(target: str) -> Dataset | None:
    """The content of dataset.json; None: it is broken, so the dataset is unusable."""
    try:
        return load_dataset(target)
    except DataError as error:
        content = storage.read_bytes(f"{target}/{MANIFEST_FILE}")  # raises if it cannot be read
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        ours = Dataset.model_fields["format"].default
        if isinstance(document, dict) and document.get("format", ours) != ours:
            raise DataError(
                f"{target}: already has a dataset of another version of lazytower "
                f"(format {document['format']!r}, this one writes {ours}); "
                "pass --overwrite to replace it, or set another dataset.path"
            ) from None
        logging.warning("%s; preparing the dataset again", str(error).partition(". Run ")[0])
        return None


def _difference(
    found: Dataset, source: SourceConfig, files: list[SourceFile], dataset: DatasetConfig
) -> str | None:
    """How a dataset differs from the requested one; None: it does not."""
    section = plain_source(source.model_dump(mode="json"))
    if difference := _other_source(found, section):
        return difference
    before = {info.path: info for info in found.source_files}
    if [file.name for file in files] != list(before):
        return f"other files: {_other_names(list(before), [file.name for file in files])}"
    contents = each(lambda file: _known_content(file, before[file.name]), files)
    for file in contents:
        if file.content != before[file.name].content or file.size != before[file.name].bytes:
            return f"other content of {file.name}, which has changed since"
    if found.source_fingerprint != source_fingerprint(section, contents):
        return "another source"
    return _other_settings(found, dataset)


def settings_differ(found: Dataset, source: SourceConfig, dataset: DatasetConfig) -> str | None:
    """How a dataset differs from one that these sections of a RunConfig make of the same files; None: it does
    not."""
    difference = _other_source(found, plain_source(source.model_dump(mode="json")))
    return difference or _other_settings(found, dataset)


def _other_source(found: Dataset, section: dict[str, Any]) -> str | None:
    before = plain_source(found.source)
    if keys := [key for key in {**before, **section} if before.get(key) != section.get(key)]:
        return f"another source (source.{keys[0]} differs)"
    return None


def _other_settings(found: Dataset, dataset: DatasetConfig) -> str | None:
    if dataset.history_of is None:
        dataset = dataset.model_copy(update={"history_of": found.section["history_of"]})  # `prepare` chose it
    if dataset.model_dump(mode="json", exclude={"path"}) != _settings(found):
        return "other dataset settings"
    return None


def _settings(found: Dataset) -> dict[str, Any] | None:
    """The dataset section as run, without its path, with the keys that sections of before lack; None: it is
    not valid any more."""
    try:
        section = DatasetConfig.model_validate(found.section)
    except ValidationError:
        return None
    return section.model_dump(mode="json", exclude={"path"})


def _known_content(file: SourceFile, before: SourceFileInfo) -> SourceFile:
    """The file with its content checksum, computed only if its version has changed."""
    if file.version == before.version:
        return file._replace(content=before.content)
    # Another time with the same size may be due to a copy or `touch`, so compare the content.
    return with_content(file) if file.size == before.bytes else file


def _other_names(before: list[str], now: list[str]) -> str:
    if not before:
        return "its files are not recorded"
    if new := [name for name in now if name not in before]:
        return f"{new[0]} is new"
    if gone := [name for name in before if name not in now]:
        return f"{gone[0]} is missing now"
    return "their order has changed"


def _damage(dataset: Dataset, info: FileInfo) -> str | None:
    """What is wrong with a file of a dataset; None: nothing. Local files are read; gs:// reports
    checksums."""
    path = dataset.file_path(info)
    try:
        file = look(path)
        if file.size != info.bytes:
            return f"{path} has {file.size:,} bytes instead of the {info.bytes:,} in {MANIFEST_FILE}"
        kind, _, checksum = with_content(file).content.partition(" ")
    except DataError:
        return f"{path} does not exist or cannot be read"
    if kind == "crc32c" and checksum != info.crc32c.lower():
        return f"the checksum of {path} differs from {MANIFEST_FILE}"
    return None
