"""Distributions in dataset.json, and how far they are from those of dataset.base."""

from collections.abc import Iterable, Mapping
from typing import Any

from configs.dataset_parts import DistributionInfo, DriftInfo, FileInfo
from configs.manifest import Dataset
from pipelines.job import OWNERS, Job
from pipelines.rows.decode import read_blocks
from pipelines.stages.files import WrittenFile
from pipelines.stages.ids import CATALOG_FILE_ROWS
from pipelines.statistics.drift import compare

_NOTABLE_UNKNOWN = 0.05  # share of values whose keys the base does not know


def distribution_facts(
    job: Job,
    distributions: Mapping[str, DistributionInfo],
    files: Iterable[WrittenFile],
    counts: Mapping[str, int],
) -> dict[str, Any]:
    """Fields of Dataset.

    Args:
      distributions: without names of keys.
      files: staged.
      counts: of the job.
    """
    named = _with_names(job, distributions, files)
    return {"distributions": named, "drift": _drift(job, named, counts)}


def _with_names(
    job: Job, distributions: Mapping[str, DistributionInfo], files: Iterable[WrittenFile]
) -> dict[str, DistributionInfo]:
    """Distributions with the keys of their ids, from the staged vocabularies of their tables."""
    tables = {name: table for part in (job, *job.sides) for name, table in part.feature_columns.items()}
    vocabularies = {(f.table, f.number): f for f in files if f.directory == "vocabularies"}
    wanted: dict[tuple[str, int], set[int]] = {}
    for name, found in distributions.items():
        for key in found.keys or []:
            wanted.setdefault((tables[name], key // CATALOG_FILE_ROWS), set()).add(key)
    texts: dict[tuple[str, int], str] = {}
    for place, ids in wanted.items():
        if place in vocabularies:
            texts |= {(place[0], i): key for i, key in _keys(job, vocabularies[place], ids)}
    named = {}
    for name, found in distributions.items():
        names = [texts.get((tables[name], key)) for key in found.keys or []]
        complete = [text for text in names if text is not None]
        named[name] = found.model_copy(update={"names": complete if len(complete) == len(names) else []})
    return named


def _keys(job: Job, file: WrittenFile, ids: set[int]) -> Iterable[tuple[int, str]]:
    """Some ids of a staged vocabulary with their keys."""
    path = f"{job.layout.staging}/{file.directory}/{file.name}"
    for block in read_blocks(path, FileInfo(path=file.name, **file.info), ["id", "key"]):
        for number, key in zip(block["id"].tolist(), block["key"], strict=True):  # type: ignore[union-attr]
            if number in ids:
                yield number, key.decode()


def _drift(
    job: Job, distributions: Mapping[str, DistributionInfo], counts: Mapping[str, int]
) -> dict[str, DriftInfo]:
    """Drift of each column whose distribution the base has, too; empty without a base.

    Args:
      counts: of the job.
    """
    if job.base is None:
        return {}
    before = job.base.top.distributions
    return {
        name: compare(name, now, before[name], counts, of_owners=name in OWNERS)
        for name, now in distributions.items()
        if name in job.base_bins
    }


def drift_lines(manifest: Dataset) -> list[str]:
    """What differs notably from the base, for the last lines of `prepare`; a line without a base that has
    distributions."""
    if manifest.base is None:
        return []
    if not manifest.drift:
        return [f"drift: not measured; {manifest.base.path} was written before distributions were stored"]
    lines = []
    for name, found in manifest.drift.items():
        facts = []
        if found.level != "none":
            facts.append(f"PSI {found.psi:.2f}, {_LEVELS[found.level]}")
            if found.largest is not None:
                what, before, now = found.largest
                facts.append(f"{what} {before:.1%} before, {now:.1%} now")
        if found.unknown_share > max(_NOTABLE_UNKNOWN, 2 * found.unknown_share_before):
            facts.append(f"{found.unknown_share:.1%} unknown keys, {found.unknown_share_before:.1%} before")
        for what, keys in (("new", found.appeared), ("gone", found.vanished)):
            if keys:
                facts.append(f"{what} among the most frequent: {_some(keys)}")
        if facts:
            lines.append(f"drift of {name} from the base: {'; '.join(facts)}")
    return lines or ["drift from the base: nothing notable (no PSI above 0.1 beyond chance)"]


_LEVELS = {"shift": "a shift", "moderate": "a moderate change"}
_SHOWN = 5


def _some(keys: list[str]) -> str:
    shown = ", ".join(repr(key) for key in keys[:_SHOWN])
    return shown + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
