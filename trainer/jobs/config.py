"""The config of a submitted job, read as far as needed.

Watching and ending a job needs only its launch section, so both also work when another version wrote the
config.
"""

import functools
from typing import Any

import yaml
from absl import logging
from pydantic import ValidationError

from configs.errors import ConfigError, UserError
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections.launch import CommonLaunchConfig
from configs.system import storage
from trainer.jobs.record import JobRecord, UnreadableFacts
from trainer.jobs.stored_files import StoredFiles
from trainer.launchers import LAUNCHERS
from trainer.launchers.base import LaunchError, Slices, SliceState


class JobConfig:
    """What config.yaml and job.json of a record say.

    Attributes:
      section: the launch section as written, in part taken from job.json when config.yaml is unreadable.
      launch: its limits, with defaults in place of keys that are unknown or invalid.

    Raises:
      UserError: there is no such job, or nothing says how it was launched.
      OSError: the place cannot be read.
    """

    def __init__(self, record: JobRecord) -> None:
        self._record = record
        self.facts = _facts(record)
        self.section = {**_known_by_facts(self.facts), **_launch_section(f"{record.path}/config.yaml")}
        if self.section.get("kind") not in LAUNCHERS:
            raise UserError(
                f"{record.path}: this version has no launch.kind {self.section.get('kind')!r} (it has "
                f"{', '.join(LAUNCHERS)}); use the version that submitted the job"
            )
        self.launch = _limits(self.section, record.path)

    @property
    def slices(self) -> type[Slices]:
        """Class of the job's slices."""
        return LAUNCHERS[self.section["kind"]].slices

    @functools.cached_property
    def whole(self) -> RunConfig:
        """All of config.yaml. Raises ConfigError: it is unreadable, or not valid in this version."""
        return load_config(f"{self._record.path}/config.yaml")


class JobMachines:
    """Slices of a job, and the means to request another one, which takes the whole config.

    As trainer.launchers.base.Slices otherwise.
    """

    def __init__(self, record: JobRecord, config: JobConfig) -> None:
        self._record, self._config = record, config
        self._kind = LAUNCHERS[config.section["kind"]]
        self._slices = config.slices(record.path, config.section)
        self.settle_seconds, self.noun = self._slices.settle_seconds, self._slices.noun

    def create(self, attempt: int) -> None:
        """As the launcher's. Raises LaunchError: the config is not of this version."""
        try:
            launcher = self._kind(self._config.whole, self._record.path, self._record.facts)
        except (ConfigError, UnreadableFacts) as error:
            raise LaunchError(f"no machine can be requested: {error}") from None
        launcher.create(attempt)

    def observe(self, attempt: int) -> SliceState:
        """As the launcher's."""
        return self._slices.observe(attempt)

    def delete(self, attempt: int) -> None:
        """As the launcher's."""
        self._slices.delete(attempt)

    def left(self, attempt: int) -> str:
        """As the launcher's."""
        return self._slices.left(attempt)

    def report(self, attempt: int) -> None:
        """As the launcher's, into the job's directory."""
        self._slices.report(attempt, StoredFiles(self._record.path))


def _facts(record: JobRecord) -> dict[str, Any]:
    try:
        return record.facts
    except UnreadableFacts as error:
        logging.warning("%s; using config.yaml alone", error)
        return {}


def _known_by_facts(facts: dict[str, Any]) -> dict[str, Any]:
    names = {"launcher": "kind", **{name: name for name in ("project", "zone", "namespace", "context")}}
    return {key: facts[name] for name, key in names.items() if facts.get(name) is not None}


def _launch_section(path: str) -> dict[str, Any]:
    """The launch section, whatever the rest holds; {} with a warning when the file is missing or torn."""
    try:
        content = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        logging.warning("%s: missing; using job.json", path)
        return {}
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        document = None
    section = document.get("launch") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        logging.warning("%s: no readable launch section; using job.json", path)
        return {}
    return section


def _limits(section: dict[str, Any], path: str) -> CommonLaunchConfig:
    """The valid limits of a section; defaults for the rest."""
    known = {key: value for key, value in section.items() if key in CommonLaunchConfig.model_fields}
    while True:
        try:
            return CommonLaunchConfig(**known)
        except ValidationError as error:
            wrong = {str(e["loc"][0]) for e in error.errors() if e["loc"]} & set(known) or set(known)
            names = ", launch.".join(sorted(wrong))
            logging.warning("%s: launch.%s: not valid in this version; using the default", path, names)
            known = {key: value for key, value in known.items() if key not in wrong}
