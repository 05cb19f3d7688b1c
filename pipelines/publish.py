"""How a complete dataset becomes visible atomically.

Files are moved out of the workspace (pipelines/workspace.py) to names that hold the content's digest,
dataset.json replaces its predecessor in one step, and files that it does not list are removed.
"""

import os
import re

from absl import logging
from fsspec import AbstractFileSystem

from configs.errors import DataError
from configs.manifest import MANIFEST_FILE, Dataset, load_dataset
from configs.system import storage
from pipelines.manifest import published_name
from pipelines.stages.files import DIRECTORIES, WrittenFile

PREVIOUS = "dataset.previous.json"
"""In an object store, the manifest of the last dataset that was replaced."""
_OUR_FILE = re.compile(r"[0-9a-f]{8}-([a-z0-9_]+-)?\d{5}\.(tfrecord\.gz|f32|arrow|i64|jsonl)")


def publish(target: str, staging: str, dataset: Dataset, files: list[WrittenFile]) -> None:
    """Moves staged files into the target, writes dataset.json last, and removes files that it does not list.

    In an object store readers are not visible, so the files of the replaced dataset, and its manifest as
    PREVIOUS, are kept until the next dataset is published.
    """
    names = {published_name(file, dataset.fingerprint): file for file in files}
    text = dataset.model_dump_json(indent=1).encode()
    if storage.is_remote(target):
        _publish_remotely(target, staging, names, text)
    else:
        _publish_here(os.path.realpath(storage.filesystem(target)[1]), staging, names, text)


def _publish_here(root: str, staging: str, names: dict[str, WrittenFile], text: bytes) -> None:
    for name, file in names.items():
        storage.make_directory(os.path.dirname(f"{root}/{name}"))
        os.replace(f"{staging}/{file.directory}/{file.name}", f"{root}/{name}")
    for directory in DIRECTORIES:
        if os.path.isdir(f"{root}/{directory}"):
            storage.sync_directory(f"{root}/{directory}")
    storage.write_bytes(f"{root}/{MANIFEST_FILE}", text)
    filesystem, place = storage.filesystem(root)
    _remove_others(filesystem, place, set(names))


def _publish_remotely(target: str, staging: str, names: dict[str, WrittenFile], text: bytes) -> None:
    filesystem, root = storage.filesystem(target)
    _, staged = storage.filesystem(staging)
    for name, file in names.items():
        filesystem.mv(f"{staged}/{file.directory}/{file.name}", f"{root}/{name}")
    previous, listed = _manifest_files(target)
    if previous is not None and not listed <= set(names):
        filesystem.pipe_file(f"{root}/{PREVIOUS}", previous)
        logging.info(
            "%s: the files of the replaced dataset are kept, for runs that read it, until the next "
            "`lazytower prepare` here; %s is its manifest",
            *(target, PREVIOUS),
        )
    filesystem.pipe_file(f"{root}/{MANIFEST_FILE}", text)
    _remove_others(filesystem, root, set(names) | listed)


def _manifest_files(target: str) -> tuple[bytes | None, set[str]]:
    """The existing manifest and the files it lists; None and an empty set if there is no readable one."""
    try:
        content = storage.read_bytes(f"{target}/{MANIFEST_FILE}")
        found = load_dataset(target)
    except (FileNotFoundError, DataError):
        return None, set()
    return content, {file.path for file in found.all_files}


def _remove_others(filesystem: AbstractFileSystem, root: str, keep: set[str]) -> None:
    """Removes files of older datasets, and of jobs killed while publishing."""
    for directory in DIRECTORIES:
        try:
            found = filesystem.ls(f"{root}/{directory}", detail=False)
        except FileNotFoundError:
            continue
        for path in found:
            name = path.rpartition("/")[2]
            if _OUR_FILE.fullmatch(name) and f"{directory}/{name}" not in keep:
                filesystem.rm_file(path)
