"""Which checkpoints a run has, which build on which, and which are deleted. Without TensorFlow.

A restart reads a chain: a full checkpoint and the increments after it, each of which names the checkpoint it
builds on by step and id. Compaction writes a full checkpoint with the step and id of the last increment; from
then on there are two ways to restore that state, and the full checkpoint is tried first.
"""

import re
from collections.abc import Callable, Iterable, Iterator

from configs.system import storage
from trainer.checkpoints.best import read_best
from trainer.checkpoints.files import COMMITTED, DENSE, DamagedCheckpoint, remove_checkpoint
from trainer.checkpoints.reader import Checkpoint, open_checkpoint

LOOKS = 5  # times that a reader lists a directory in which a trainer is working
_NAME = re.compile(r"^step-(\d{9})(\.increment)?$")


def directory_name(step: int, kind: str) -> str:
    """Name of a checkpoint's directory; `kind` is full or increment."""
    return f"step-{step:09d}" + (".increment" if kind == "increment" else "")


class CheckpointDirectory:
    """The checkpoints of a run at one time: listed once, and each manifest read at most once.

    Args:
      path: of the directory, which need not exist.
      known: checkpoints in it that are open already.

    Attributes:
      names: names of all checkpoint directories, complete or not, by step in ascending order; the full one
        of a step comes first.
    """

    def __init__(self, path: str, known: Iterable[Checkpoint] = ()):
        self.path = path
        self._opened = {checkpoint.name: checkpoint for checkpoint in known}
        found: dict[int, list[str]] = {}
        for name in storage.names(path):
            if match := _NAME.match(name):
                found.setdefault(int(match.group(1)), []).append(name)
        self.names: dict[int, list[str]] = {step: sorted(found[step]) for step in sorted(found)}

    def has_changed(self) -> bool:
        """Whether the directory holds other checkpoints now."""
        return CheckpointDirectory(self.path).names != self.names

    def steps(self) -> list[int]:
        """Steps with a complete directory, ascending."""
        return [step for step, names in self.names.items() if any(map(self.is_complete, names))]

    def is_complete(self, name: str) -> bool:
        """Whether a directory holds COMMITTED, which is written last."""
        return name in self._opened or storage.exists(storage.join(self.path, name, COMMITTED))

    def open(self, name: str) -> Checkpoint:
        """A complete checkpoint, its manifest verified. Raises DamagedCheckpoint."""
        if name not in self._opened:
            self._opened[name] = open_checkpoint(storage.join(self.path, name))
        return self._opened[name]

    def chains(self, step: int, wanted: str | None = None) -> Iterator[list[Checkpoint] | DamagedCheckpoint]:
        """Ways to restore a step, best first; for a way that fails, the reason.

        Args:
          step: to restore.
          wanted: id that the checkpoint of this step must have; None: any id.

        Yields:
          A full checkpoint and increments in order, of which only manifests are verified.
        """
        names = [name for name in self.names.get(step, []) if self.is_complete(name)]
        if not names:
            yield DamagedCheckpoint(
                f"{self.path}: step {step}, which later checkpoints build on, is incomplete"
            )
        for name in names:
            try:
                checkpoint = self.open(name)
            except DamagedCheckpoint as error:
                yield error
                continue
            if wanted not in (None, checkpoint.manifest.id):
                yield DamagedCheckpoint(f"{checkpoint.path}: is not the checkpoint that later ones build on")
            elif (base := checkpoint.manifest.base) is None:
                yield [checkpoint]
            else:
                for found in self.chains(base.step, base.id):
                    yield [*found, checkpoint] if isinstance(found, list) else found


def needed_files(chain: list[Checkpoint]) -> Iterator[tuple[Checkpoint, list[str]]]:
    """(checkpoint, files) that restoring the last checkpoint of a chain reads."""
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
    """Deletes all checkpoints but the `keep` newest restorable steps, the best one, and what they build on.

    Damaged steps after the one that the run fell back to are deleted too; counted, they would displace good
    ones.

    Args:
      directory: of the run's checkpoints.
      newest: chain of the newest good checkpoint.
      keep: number of steps to keep.
      previous: step that the run restored or saved before the newest; steps between them are obsolete.
      check: called before each deletion; raises if another process owns the run.

    Returns:
      Names of the deleted directories.

    Raises:
      CheckpointError: a manifest cannot be read, so nothing was deleted; or a deletion failed.
    """
    record = read_best(directory)
    protected = record.kept_steps if record else []
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
    for step in protected:
        if step < newest[-1].step and step <= last:
            chain = next((chain for chain in found.chains(step) if isinstance(chain, list)), [])
            kept |= {checkpoint.name for checkpoint in chain}
    removed = [name for names in found.names.values() for name in names if name not in kept]
    for name in removed[::-1]:  # increments before what they build on
        check()
        remove_checkpoint(storage.join(directory, name))
    return removed
