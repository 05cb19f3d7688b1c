"""Whether a dataset is there already: from the same source, with the same settings, and whole."""

import json

from absl import logging

from configs.errors import DataError
from configs.manifest import MANIFEST_FILE, Dataset, FileInfo, SourceFileInfo, load_dataset
from configs.system import storage
from pipelines.manifest import source_fingerprint
from pipelines.sources.identity import SourceFile, each, look, with_content


def find_present(target: str, source, files: list[SourceFile], dataset) -> Dataset | None:
    """The dataset at the target when it is the one asked for; None when there is none or it is damaged.

    Args:
      source, dataset: sections of a RunConfig.
      files: the source's, as they are now.

    Raises:
      DataError: there is a different one.
    """
    if not storage.exists(f"{target}/{MANIFEST_FILE}"):
        return None
    found = _load(target)
    if found is None:
        return None
    if difference := _difference(found, source, files, dataset):
        raise DataError(
            f"{target}: holds a dataset prepared from {difference}; "
            "give --overwrite to replace it, or another dataset.path"
        )
    damage = [what for what in each(lambda info: _damage(found, info), found.record_files) if what]
    if damage:
        others = f", and {len(damage) - 1:,} more files are damaged" if damage[1:] else ""
        logging.warning("%s: damaged: %s%s; preparing the dataset again", target, damage[0], others)
        return None
    return found


def _load(target: str) -> Dataset | None:
    """What dataset.json says; None when it is torn, so that nothing could use the dataset."""
    try:
        return load_dataset(target)
    except DataError as error:
        content = storage.read_bytes(f"{target}/{MANIFEST_FILE}")  # what cannot be read fails here
        try:
            document = json.loads(content)
        except ValueError:
            document = None
        ours = Dataset.model_fields["format"].default
        if isinstance(document, dict) and document.get("format", ours) != ours:
            raise DataError(
                f"{target}: holds a dataset of another version of lazytower "
                f"(format {document['format']!r}, this one writes {ours}); "
                "give --overwrite to replace it, or another dataset.path"
            ) from None
        logging.warning("%s; preparing the dataset again", str(error).partition(". Run ")[0])
        return None


def _difference(found: Dataset, source, files: list[SourceFile], dataset) -> str | None:
    """In what a dataset is not the one that was asked for, or None."""
    section = source.model_dump(mode="json")
    if keys := [key for key in {**found.source, **section} if found.source.get(key) != section.get(key)]:
        return f"another source (source.{keys[0]} differs)"
    before = {info.path: info for info in found.source_files}
    if [file.name for file in files] != list(before):
        return f"other files: {_other_names(list(before), [file.name for file in files])}"
    contents = each(lambda file: _known_content(file, before[file.name]), files)
    for file in contents:
        if file.content != before[file.name].content or file.size != before[file.name].bytes:
            return f"another content of {file.name}, which has changed since"
    if found.source_fingerprint != source_fingerprint(section, contents):
        return "another source"
    wanted = dataset.model_dump(mode="json", exclude={"path"})
    if wanted != {key: value for key, value in found.dataset.items() if key != "path"}:
        return "other dataset settings"
    return None


def _known_content(file: SourceFile, before: SourceFileInfo) -> SourceFile:
    """With its content, for which it is not read when nobody has written it since."""
    if file.version == before.version:
        return file._replace(content=before.content)
    # Another time at the same size may be a copy or `touch`: only the content decides.
    return with_content(file) if file.size == before.bytes else file


def _other_names(before: list[str], now: list[str]) -> str:
    if not before:
        return "it does not say of which"
    if new := [name for name in now if name not in before]:
        return f"{new[0]} is new"
    if gone := [name for name in before if name not in now]:
        return f"{gone[0]} is not among them now"
    return "their order has changed"


def _damage(dataset: Dataset, info: FileInfo) -> str | None:
    """What is wrong with a file of a dataset, or None. A local file is read; gs:// knows its checksum."""
    path = dataset.file_path(info)
    try:
        file = look(path)
        if file.size != info.bytes:
            return f"{path} has {file.size:,} bytes, {MANIFEST_FILE} says {info.bytes:,}"
        kind, _, checksum = with_content(file).content.partition(" ")
    except DataError:
        return f"{path} is gone or cannot be read"
    if kind == "crc32c" and checksum != info.crc32c.lower():
        return f"the checksum of {path} is not that of {MANIFEST_FILE}"
    return None
