"""What is known of a trial's run: its evaluations, and how far it has come. Without TensorFlow."""

from configs.load import dump_config
from configs.schema import RunConfig
from configs.sections.evaluation import is_better
from configs.system import storage
from trainer.checkpoints.best import BestRecord, read_best
from trainer.report.metrics_file import read_metrics

WHOLE = 1000
"""A trial's whole run in Optuna's steps, so that runs of different lengths are compared at the same place."""


class TrialRun:
    """The run of a trial.

    Args:
      config: of the run.
    """

    def __init__(self, config: RunConfig):
        self.config, self.path = config, config.output.path
        self._num_steps: int | None = None

    @property
    def config_file(self) -> str:
        """The config, for every other command."""
        return storage.join(self.path, "config.yaml")

    @property
    def log(self) -> str | None:
        """Where its output goes; None: the run is not on a local disk."""
        return None if storage.is_remote(self.path) else storage.join(self.path, "log.txt")

    def write(self) -> None:
        """Writes the config, as `lazytower train` will too."""
        storage.make_directory(self.path)
        storage.write_bytes(self.config_file, dump_config(self.config).encode())

    def record(self) -> BestRecord | None:
        """All evaluations so far; None: there is none. Raises CheckpointError: they cannot be read."""
        found = read_best(storage.join(self.path, "checkpoints"))
        return found if found is not None and found.evaluations else None

    def curve(self) -> list[tuple[int, float]]:
        """Of each evaluation before the end of the run: (place in the run, of WHOLE; the best value so
        far)."""
        record, num_steps = self.record(), self.num_steps()
        if record is None or num_steps is None:
            return []
        found: list[tuple[int, float]] = []
        for one in record.evaluations:
            value = one.value
            if found and is_better(record.metric, found[-1][1], value):
                value = found[-1][1]
            place = max(1, WHOLE * one.step // num_steps)
            if found and place == found[-1][0]:
                continue
            if one.step < num_steps:
                found.append((place, value))
        return found

    def num_steps(self) -> int | None:
        """Of the whole run; None: it has not begun."""
        if self._num_steps is None:
            lines = read_metrics(self.path)
            self._num_steps = next((line["num_steps"] for line in lines if "num_steps" in line), None)
        return self._num_steps

    def steps(self) -> int:
        """Steps done."""
        return max((line.get("step", 0) for line in read_metrics(self.path)), default=0)

    def has_diverged(self) -> bool:
        """Whether it ended at a loss or gradient that was not finite."""
        events = [line.get("event") for line in read_metrics(self.path)]
        turns = [event for event in events if event in ("start", "resume", "skip", "stop", "end")]
        return turns[-1:] == ["skip"]
