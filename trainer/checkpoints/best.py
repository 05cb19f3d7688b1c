"""The best checkpoint of a run by a metric on valid: checkpoints/best.json. Without TensorFlow.

The file lists what every evaluation found, so best step and patience follow from it alone, and a run that
resumes from an earlier step drops what came later. A step is entered when its checkpoint is complete.
"""

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from configs.errors import CheckpointError
from configs.schema import RunConfig
from configs.sections.evaluation import is_better
from configs.system import storage
from trainer.checkpoints.files import errors_of

BEST_FILE = "best.json"


class Evaluated(BaseModel):
    """What one evaluation found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    """Steps done."""
    value: float
    """The metric."""
    averaged_steps: list[int] = []
    """With polyak.kind tail_average, the checkpoints to average if this is the best, this one included."""


class BestRecord(BaseModel):
    """The content of best.json."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    """As evaluate.best.metric."""
    protocol: str
    """How it is measured; values of different protocols are not compared."""
    evaluations: list[Evaluated] = []
    """By step."""

    @property
    def best(self) -> Evaluated | None:
        """The first evaluation with the best value; None without evaluations."""
        found: Evaluated | None = None
        for one in self.evaluations:
            if found is None or is_better(self.metric, one.value, found.value):
                found = one
        return found

    @property
    def waited(self) -> int:
        """Evaluations since the best one."""
        best = self.best
        return sum(one.step > best.step for one in self.evaluations) if best else 0

    @property
    def kept_steps(self) -> list[int]:
        """Steps whose checkpoints the best one needs, it included."""
        best = self.best
        return [] if best is None else sorted({best.step, *best.averaged_steps})

    def until(self, step: int) -> "BestRecord":
        """Without evaluations of later steps."""
        kept = [one for one in self.evaluations if one.step <= step]
        return self.model_copy(update={"evaluations": kept})

    def having(self, evaluated: Evaluated) -> "BestRecord":
        """With a further evaluation, in place of an earlier one of its step."""
        others = [one for one in self.evaluations if one.step < evaluated.step]
        return self.model_copy(update={"evaluations": [*others, evaluated]})

    def text(self) -> str:
        """The best step in words, without the step."""
        best = self.best
        return f"best by {self.metric} on valid, {best.value:.4f}" if best else "no evaluation"


def read_best(directory: str) -> BestRecord | None:
    """The record of a directory of checkpoints; None: there is none.

    Raises:
      CheckpointError: it cannot be read.
    """
    name = storage.join(directory, BEST_FILE)
    try:
        with errors_of(name, "read"):
            content = storage.read_bytes(name)
    except CheckpointError as error:
        if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            return None
        raise
    try:
        return BestRecord.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]["msg"]
        raise CheckpointError(
            f"{name}: is not a record of evaluations ({first}); delete it: then the best of the evaluations "
            "to come is kept"
        ) from None


def write_best(directory: str, record: BestRecord | None) -> None:
    """Replaces the record atomically; None removes it. Raises CheckpointError: it cannot be written."""
    name = storage.join(directory, BEST_FILE)
    with errors_of(name):
        if record is None:
            storage.remove(name)
            return
        storage.make_directory(directory)
        storage.write_bytes(name, json.dumps(record.model_dump(), indent=1).encode())


def chosen_steps(config: RunConfig, directory: str, wanted: int | str | None) -> tuple[list[int] | None, str]:
    """Which steps of a run to try, in order, before the others, and what they are in words.

    Args:
      config: the run.
      directory: of its checkpoints.
      wanted: a step; best; newest; None: best if the config has evaluate.best, else newest.

    Raises:
      CheckpointError: there is no best step.
    """
    if isinstance(wanted, int):
        return [wanted], "as asked for"
    if wanted == "newest" or (wanted is None and config.evaluate.best is None):
        return None, "newest"
    record = read_best(directory)
    best = record.best if record else None
    if record is not None and best is not None:
        return [best.step], record.text()
    if wanted is None:
        return None, "newest; no evaluation has found a best one yet"
    raise CheckpointError(
        f"{directory}: no evaluation has found a best step; set evaluate.best and every_steps and train, or "
        "choose another step"
    )


def best_facts(directory: str) -> dict[str, Any] | None:
    """Step, metric and value of the best checkpoint; None: there is none. Raises as read_best."""
    record = read_best(directory)
    if record is None or record.best is None:
        return None
    return {"step": record.best.step, "metric": record.metric, "value": record.best.value}
