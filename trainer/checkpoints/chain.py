"""Which checkpoints a run has, which build on which, and which may go. Without TensorFlow.

A restart reads a chain: a full checkpoint and the increments after it, each of which names the checkpoint it
builds on by step and id. Compaction writes a full checkpoint of the same step and id beside the increment;
from then on there are two ways to that state, the full one first.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from configs.system import storage
from trainer.checkpoints.files import COMMITTED, DENSE, DamagedCheckpoint, remove_checkpoint
from trainer.checkpoints.reader import Checkpoint, open_checkpoint

LOOKS = 5  # of a reader at a directory in which a trainer is at work
_NAME = re.compile(r"^step-(\d{9})(\.increment)?$")


def directory_name(step: int, kind: str) -> str:
    """Name of a checkpoint's directory; kind: full or increment."""
    return f"step-{step:09d}" + (".increment" if kind == "increment" else "")


class CheckpointDirectory:
    """The checkpoints of a run as they are now: listed once, and each manifest read at most once.

    Args:
      path: of the directory; it need not exist.
      known: checkpoints of it that are open already.

    Attributes:
      names: of all checkpoint directories, complete or not, by step ascending; a step's full one first.
    """

    def __init__(self, path: str, known: Iterable[Checkpoint] = ()):
        self.path, self.names = path, {}
        self._opened = {checkpoint.name: checkpoint for checkpoint in known}
        found = {}
        for name in storage.names(path):
            if match := _NAME.match(name):
                found.setdefault(int(match.group(1)), []).append(name)
        self.names = {step: sorted(found[step]) for step in sorted(found)}

    def has_changed(self) -> bool:
        """Whether the directory lists other checkpoints by now."""
        return CheckpointDirectory(self.path).names != self.names

    def steps(self) -> list[int]:
        """Steps of which there is a complete directory, ascending."""
        return [step for step, names in self.names.items() if any(map(self.is_complete, names))]

    def is_complete(self, name: str) -> bool:
        """Whether a directory holds COMMITTED; a writer that was killed leaves none."""
        return name in self._opened or storage.exists(storage.join(self.path, name, COMMITTED))

    def open(self, name: str) -> Checkpoint:
        """A complete checkpoint, its manifest verified. Raises DamagedCheckpoint."""
        if name not in self._opened:
            self._opened[name] = open_checkpoint(storage.join(self.path, name))
        return self._opened[name]

    def chains(self, step: int, wanted: str | None = None) -> Iterator[list[Checkpoint] | DamagedCheckpoint]:
        """Ways to restore a step, best first; where one ends early, the reason in its place.

        Args:
          step: to restore.
          wanted: id that the checkpoint of this step must have; None: any.

        Yields:
          Checkpoints, a full one, then increments in order; only their manifests are verified.
        """
        names = [name for name in self.names.get(step, []) if self.is_complete(name)]
        if not names:
            yield DamagedCheckpoint(f"{self.path}: step {step}, which later ones build on, is not complete")
        for name in names:
            try:
                checkpoint = self.open(name)
            except DamagedCheckpoint as error:
                yield error
                continue
            if wanted not in (None, checkpoint.manifest.id):
                yield DamagedCheckpoint(f"{checkpoint.path}: is not the one that later ones build on")
            elif (base := checkpoint.manifest.base) is None:
                yield [checkpoint]
            else:
                for found in self.chains(base.step, base.id):
                    yield [*found, checkpoint] if isinstance(found, list) else found


def needed_files(chain: list[Checkpoint]) -> Iterator[tuple[Checkpoint, list[str]]]:
    """The files of each checkpoint that restoring the last one of a chain reads."""
    for checkpoint in chain:
        last = checkpoint is chain[-1]
        yield checkpoint, [name for name in checkpoint.manifest.files if last or name != DENSE]


def prune(
    directory: str,
    newest: list[Checkpoint],
    keep: int,
    previous: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[str]:
    """Deletes all but the `keep` newest restorable steps, and what they build on.

    Steps after the one that the run fell back to, which did not verify, go too: counted, they would push out
    the good ones.

    Args:
      directory: of the run's checkpoints.
      newest: chain of the newest good one.
      keep: how many steps stay.
      previous: step that the run restored or saved before the newest; those between are abandoned.
      check: called before each deletion; raises when the run is no longer this process's.

    Returns:
      Names of what was deleted.

    Raises:
      CheckpointError: a manifest cannot be read, so nothing was deleted; or something cannot be deleted.
    """
    found = CheckpointDirectory(directory, newest)
    kept, steps = {checkpoint.name for checkpoint in newest}, 1
    last = newest[-1].step if previous is None else previous
    for step in sorted((s for s in found.names if s < newest[-1].step and s <= last), reverse=True):
        if steps >= keep:
            break
        chain = next((chain for chain in found.chains(step) if isinstance(chain, list)), None)
        if chain is not None:
            kept |= {checkpoint.name for checkpoint in chain}
            steps += 1
    removed = [name for names in found.names.values() for name in names if name not in kept]
    for name in removed[::-1]:  # what builds on others first
        check()
        remove_checkpoint(storage.join(directory, name))
    return removed
