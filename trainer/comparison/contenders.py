"""The runs that are compared, and what they must have in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from configs.errors import ConfigError, UserError
from configs.load import overridden, parse_config, read_document
from configs.manifest import load_dataset
from configs.schema import RunConfig
from configs.sections.ranking import RankingConfig
from configs.system import storage

_OF_PROTOCOL = {
    "retrieval": ("protocol", "negatives", "k", "exclude_seen", "cold_items", "cold_users", "max_users"),
    "ranking": ("group_by",),
}
_ALWAYS = ("seed", "bootstrap", "confidence")
_NOT_COMPARED = ("name", "output.path")


@dataclass(frozen=True)
class Contender:
    """A run."""

    name: str
    """What it is called in tables: its directory, as short as it is unique."""
    config: RunConfig


def load_contenders(runs: Sequence[str], overrides: Sequence[str]) -> list[Contender]:
    """Reads the configs of runs, which must be comparable.

    Args:
      runs: run directories or config files, local or gs://; at least two.
      overrides: as --set, of all configs.

    Raises:
      UserError: a config cannot be read, or the runs cannot be compared; names the key.
    """
    if len(runs) < 2:
        raise UserError("compare takes at least two runs; name another one")
    configs = [_config(run, overrides) for run in runs]
    paths = [config.output.path.rstrip("/") for config in configs]
    if twice := [path for place, path in enumerate(paths) if path in paths[:place]]:
        raise UserError(f"{twice[0]}: named twice; name each run once")
    contenders = [Contender(name, config) for name, config in zip(_short(paths), configs, strict=True)]
    for other in contenders[1:]:
        _check_pair(contenders[0], other)
    return contenders


def _config(run: str, overrides: Sequence[str]) -> RunConfig:
    """A directory's config.yaml reproduces its run; the directory may have been moved since."""
    if run.endswith((".yaml", ".yml")):
        return parse_config(overridden(read_document(run), overrides), run)
    file = storage.join(run, "config.yaml")
    if not storage.exists(file):
        raise ConfigError(f"{run}: has no config.yaml, so it is not a run; name run directories or configs")
    document = overridden(read_document(file), overrides)
    return parse_config(document | {"output": {"path": run}}, file)


def _short(paths: Sequence[str]) -> list[str]:
    """The ends of paths, as many parts as make them differ."""
    parts = [path.split("/") for path in paths]
    for number in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-number:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)


def _check_pair(first: Contender, other: Contender) -> None:
    """Raises UserError if figures of two runs do not mean the same."""
    families = [one.config.model.family for one in (first, other)]
    if families[0] != families[1]:
        raise _refused("model.family", first, other, *families)
    prints = [load_dataset(one.config.dataset.path).fingerprint for one in (first, other)]
    if prints[0] != prints[1]:
        raise UserError(
            f"{first.name} and {other.name} were trained on different datasets ({first.config.dataset.path}, "
            f"{other.config.dataset.path}); compare runs on one dataset"
        )
    for key in (*_OF_PROTOCOL[families[0]], *_ALWAYS):
        values = [getattr(one.config.evaluate, key) for one in (first, other)]
        if values[0] != values[1]:
            raise _refused(f"evaluate.{key}", first, other, *values)
    tasks = [_tasks(one.config) for one in (first, other)]
    if tasks[0] != tasks[1]:
        raise _refused("model.tasks", first, other, *tasks)


def _refused(key: str, first: Contender, other: Contender, one: Any, two: Any) -> UserError:
    fix = f"pass --set {key}=... for all of them" if key.startswith("evaluate.") else "choose other runs"
    return UserError(
        f"{key}: {one} in {first.name}, but {two} in {other.name}, so their figures are not comparable; {fix}"
    )


def _tasks(config: RunConfig) -> list[dict[str, Any]]:
    """What is predicted, of a ranking model."""
    if not isinstance(config.model, RankingConfig):
        return []
    return [task.model_dump(include={"name", "label", "where", "loss"}) for task in config.model.tasks]


def config_differences(contenders: Sequence[Contender]) -> list[tuple[str, list[Any]]]:
    """Keys of the configs, and the value of each run; None where a run has no such key."""
    flat = [dict(_flat(one.config.model_dump(mode="json"), "")) for one in contenders]
    keys = dict.fromkeys(key for document in flat for key in document)
    found = [(key, [document.get(key) for document in flat]) for key in keys if key not in _NOT_COMPARED]
    return [(key, values) for key, values in found if any(value != values[0] for value in values)]


def _flat(value: Any, key: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [
            pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else name)
        ]
    return [(key, value)]
