"""The run that another one starts from: its config and its checkpoint."""

from dataclasses import dataclass

from configs.errors import CheckpointError, ConfigError
from configs.load import load_config
from configs.schema import RunConfig
from configs.sections.training import InitConfig
from configs.system import storage
from trainer.checkpoints.best import best_facts
from trainer.checkpoints.chain import CheckpointDirectory
from trainer.checkpoints.files import errors_of
from trainer.checkpoints.identity import DATASET
from trainer.checkpoints.manifest import CheckpointManifest, TableLayout
from trainer.checkpoints.reader import Checkpoint
from trainer.checkpoints.restoration import newest_restorable


@dataclass(frozen=True)
class Source:
    """A run to start from."""

    path: str
    """Its directory."""
    config: RunConfig
    """Its saved config."""
    chain: list[Checkpoint]
    """The checkpoint to take: a full one and increments in order, of which only manifests are verified."""

    @property
    def manifest(self) -> CheckpointManifest:
        """That of the checkpoint."""
        return self.chain[-1].manifest

    @property
    def layouts(self) -> dict[str, TableLayout]:
        """How the records of all rows lie, by table."""
        return self.chain[0].manifest.tables

    @property
    def fingerprint(self) -> str:
        """That of the dataset on which it was trained."""
        return str(self.manifest.identity.get(DATASET))

    @property
    def num_steps(self) -> int:
        """Length of the whole run, on which its averages depend."""
        return int(self.manifest.identity.get("number of steps") or self.manifest.step)

    @property
    def directory(self) -> str:
        """Of its checkpoints."""
        return checkpoints_of(self.path)


def checkpoints_of(run: str) -> str:
    """Directory of a run's checkpoints."""
    return storage.join(run, "checkpoints")


def starts_anew(config: RunConfig) -> bool:
    """Whether the run has no checkpoint of its own to resume from; only then it reads `init`."""
    directory = checkpoints_of(config.output.path)
    with errors_of(directory, "read"):
        return not CheckpointDirectory(directory).steps()


def open_source(init: InitConfig) -> Source:
    """The run of init.from.

    Raises:
      CheckpointError: there is no run, or it holds no complete checkpoint whose manifest verifies.
      ConfigError: its config cannot be read.
    """
    path = init.from_.rstrip("/")
    name = storage.join(path, "config.yaml")
    with errors_of(path, "read"):
        there = storage.exists(name)
    if not there:
        raise CheckpointError(
            f"init.from: {path}: no run there (config.yaml is missing); train it first, or correct the path"
        )
    try:
        config = load_config(name)
    except ConfigError as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"init.from: its config is not one of this version: {first}") from None
    # A trainer may be at work there: it deletes old checkpoints while this looks at them.
    preferred = best_first(path)
    found = newest_restorable(
        checkpoints_of(path), lambda chain: None, lambda chain: chain, _OTHER_RUN, preferred
    )
    if found is None:
        raise CheckpointError(f"init.from: {path}: holds no complete checkpoint; {_OTHER_RUN}")
    return Source(path, config, found[0])


def best_first(path: str) -> list[int]:
    """The step of a run's best checkpoint, if it keeps one, which is taken before newer ones."""
    facts = best_facts(checkpoints_of(path))
    return [facts["step"]] if facts else []


_OTHER_RUN = "wait for its first one, start from another run, or remove init"
