"""The config that a job was submitted with, read as far as needed: watching and ending it takes the launch
section alone, whatever another version has written elsewhere or beside."""

import functools

import yaml
from absl import logging
from pydantic import ValidationError

from configs.errors import ConfigError, UserError
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections.launch import CommonLaunchConfig
from configs.system import storage
from trainer.jobs.record import JobRecord, UnreadableFacts
from trainer.launchers import LAUNCHERS
from trainer.launchers.base import LaunchError, SliceState


class JobConfig:
    """What config.yaml and job.json of a record say.

    Attributes:
      section: the launch section as written, in part taken from job.json when config.yaml is unreadable.
      launch: its limits; keys that are unknown or wrong are left out, and their defaults count.

    Raises:
      UserError: there is no such job, or nothing says how it was launched.
      OSError: the place cannot be read.
    """

    def __init__(self, record: JobRecord):
        self._record = record
        self.facts = _facts(record)
        self.section = {**_known_by_facts(self.facts), **_launch_section(f"{record.path}/config.yaml")}
        if self.section.get("kind") not in LAUNCHERS:
            raise UserError(
                f"{record.path}: launch.kind {self.section.get('kind')!r} is not known to this version; use "
                f"the one that submitted the job (known: {', '.join(LAUNCHERS)})"
            )
        self.launch = _limits(self.section, record.path)

    @functools.cached_property
    def whole(self) -> RunConfig:
        """All of config.yaml. Raises ConfigError: it is not of this version, or unreadable."""
        return load_config(f"{self._record.path}/config.yaml")


class JobMachines:
    """See trainer.launchers.base.Slices; more than is there is asked for with the whole config alone."""

    def __init__(self, record: JobRecord, config: JobConfig):
        self._record, self._config = record, config
        self._kind = LAUNCHERS[config.section["kind"]]
        self._slices = self._kind.slices(record.path, config.section)
        self.settle_seconds = self._slices.settle_seconds

    def create(self, attempt: int) -> None:
        """As the launcher's. Raises LaunchError: the config is not of this version."""
        try:
            launcher = self._kind(self._config.whole, self._record.path, self._record.facts)
        except (ConfigError, UnreadableFacts) as error:
            raise LaunchError(f"no machine can be asked for: {error}") from None
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


def _facts(record: JobRecord) -> dict:
    try:
        return record.facts
    except UnreadableFacts as error:
        logging.warning("%s; going by config.yaml", error)
        return {}


def _known_by_facts(facts: dict) -> dict:
    names = {"launcher": "kind", "project": "project", "zone": "zone"}
    return {key: facts[name] for name, key in names.items() if facts.get(name) is not None}


def _launch_section(path: str) -> dict:
    """The launch section, whatever the rest holds; {} when the file is missing or torn, which is noted."""
    try:
        content = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        logging.warning("%s: missing; going by job.json", path)
        return {}
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError):
        document = None
    section = document.get("launch") if isinstance(document, dict) else None
    if not isinstance(section, dict):
        logging.warning("%s: has no launch section that can be read; going by job.json", path)
        return {}
    return section


def _limits(section: dict, path: str) -> CommonLaunchConfig:
    """What is valid of a section's limits; the rest by default."""
    known = {key: value for key, value in section.items() if key in CommonLaunchConfig.model_fields}
    while True:
        try:
            return CommonLaunchConfig(**known)
        except ValidationError as error:
            wrong = {str(e["loc"][0]) for e in error.errors() if e["loc"]} & set(known) or set(known)
            logging.warning("%s: launch.%s not valid here; by default", path, ", launch.".join(sorted(wrong)))
            known = {key: value for key, value in known.items() if key not in wrong}
