"""Sections of the training run itself."""

from typing import Literal

from pydantic import Field, model_validator

from configs.sections.base import KeptAt, Section, Seed

MAX_STEPS = 2**24  # a record keeps its last step as float32, exact up to here
DEFAULT_HORIZON = 0.01
"""Share of a run's steps that its averages look back over; docs/decisions.md has the measurements."""


class ScheduleConfig(Section):
    """Multiplier of every learning rate over the run: warm-up, middle part, cool-down."""

    warmup_fraction: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the rate rises as (step / warm-up steps) ^ warmup_power."""
    warmup_power: float = Field(2.0, gt=0)
    """Exponent of the warm-up (the SM3 notes prefer 2)."""
    decay: Literal["constant", "cosine", "exponential"] = "constant"
    """The rate between warm-up and cool-down: constant, or falling to decay_to, as half a cosine wave or by
    the same factor each step."""
    decay_to: float | None = Field(None, gt=0, le=1)
    """Share of the peak rate that the decay ends at, 0.01 when not given; constant has none."""
    cooldown_fraction: float | None = Field(None, ge=0, le=1)
    """Share of the steps, at the end, in which the rate falls linearly to 0. When not given: 0.5, or what the
    warm-up leaves, under decay constant; none under the others, which fall anyway."""

    @model_validator(mode="after")
    def _fractions_fit(self):
        if self.cooldown_fraction is None:
            # Frozen for everyone else; here the section is still being read.
            falls = self.decay != "constant"
            self.__dict__["cooldown_fraction"] = 0.0 if falls else min(0.5, 1.0 - self.warmup_fraction)
        if self.warmup_fraction + self.cooldown_fraction > 1:
            raise ValueError("warmup_fraction + cooldown_fraction must not exceed 1")
        if self.decay_to is not None and self.decay == "constant":
            raise ValueError("decay_to belongs to decay: cosine or exponential, this is constant")
        return self


class PolyakConfig(Section):
    """Averaging of all weights; averages are what is evaluated and exported."""

    kind: Literal["exponential", "uniform", "tail_average", "none"] = "exponential"
    """exponential: avg = decay avg + (1 - decay) w; uniform: mean of the weights since the start step;
    tail_average: mean of the newest checkpoints, which costs no memory but is made of few steps only, and
    which evaluations during training do not have yet."""
    horizon_fraction: float | None = Field(None, gt=0, le=0.5)
    """Share of the run's steps that the average looks back over, 0.01 when not given: exponential
    decays by 1 - 1 / (that many steps), uniform is the mean of the last so many."""
    decay: float | None = Field(None, ge=0, lt=1)
    """Decay per step of the exponential average, in place of horizon_fraction: it looks back over
    1 / (1 - decay) steps however long the run is. The other kinds have none."""
    start_fraction: float | None = Field(None, ge=0, lt=1)
    """Share of the steps before averaging begins; until then the average is the weight itself. When not
    given, exponential begins after the steps it looks back over, at half of the run at the latest, so that
    the random start is never part of it; uniform begins where its horizon does."""
    checkpoints: int | None = Field(None, ge=2)
    """Newest checkpoints that tail_average takes the mean of, 5 when not given, of the later half of the
    steps; the other kinds have none."""

    @model_validator(mode="after")
    def _keys_are_used(self):
        if self.decay is not None and self.kind != "exponential":
            raise ValueError(f"decay belongs to kind: exponential, this is {self.kind}")
        if self.checkpoints is not None and self.kind != "tail_average":
            raise ValueError(f"checkpoints belongs to kind: tail_average, this is {self.kind}")
        for key in ("horizon_fraction", "start_fraction"):
            if getattr(self, key) is not None and not self.at_each_step:
                raise ValueError(f"{key} belongs to kind: exponential or uniform, this is {self.kind}")
        if self.horizon_fraction is not None:
            if self.decay is not None:
                raise ValueError(
                    "horizon_fraction and decay both set how far the average looks back; give one"
                )
            if self.kind == "uniform" and self.start_fraction is not None:
                raise ValueError(
                    "horizon_fraction and start_fraction both set where a uniform average begins; give one"
                )
        return self

    @property
    def horizon(self) -> float | None:
        """Share of the steps that the average looks back over; None: another key says it."""
        said = self.decay if self.kind == "exponential" else self.start_fraction
        if not self.at_each_step or said is not None:
            return None
        return DEFAULT_HORIZON if self.horizon_fraction is None else self.horizon_fraction

    @property
    def tail(self) -> int:
        """Checkpoints that are averaged; 0 under other kinds than tail_average."""
        return (self.checkpoints or 5) if self.kind == "tail_average" else 0

    @property
    def at_each_step(self) -> bool:
        """Whether averages are kept beside the weights while the run trains."""
        return self.kind in ("exponential", "uniform")


class TrainConfig(Section):
    """Length and pace of the run."""

    batch_size: int = Field(8192, ge=1)
    """Rows per step, over all replicas."""
    num_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps of the run; or give num_epochs."""
    num_epochs: float | None = Field(None, gt=0)
    """Passes over the train split; or give num_steps."""
    steps_per_loop: int = Field(100, ge=1)
    """Steps inside one tf.function call, between two looks at the clock."""
    clip_norm: float | None = Field(None, gt=0)
    """All gradients, of towers and of the batch's distinct rows, are scaled down together when their global
    norm is above it."""
    skip_nonfinite: int = Field(0, ge=0)
    """Batches with a loss or gradient that is not finite that may be left out over the whole run; 0: the
    first one ends it."""
    seed: Seed = 0
    """Seed of initial weights, order of the data, dropout and sampled negatives."""

    @model_validator(mode="after")
    def _one_length(self):
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("give exactly one of num_steps and num_epochs")
        return self


class CheckpointConfig(Section):
    """When state is saved and how much of it is kept."""

    every_steps: int = Field(1000, ge=1)
    """A checkpoint is written every so many steps, and at the end."""
    keep: int = Field(3, ge=1)
    """Newest checkpoints kept, with what they build on; older ones are deleted."""
    incremental: bool = True
    """Write only the rows touched since the checkpoint before; a restart reads the last full checkpoint and
    the increments after it. Full ones are written when they hold no more than an increment would."""
    compact_at: float = Field(1.0, ge=0)
    """A full checkpoint is written when the increments since the last one would hold more than this times its
    bytes: more saves writing and costs disk and restart time."""
    async_memory_mb: int = Field(512, ge=0)
    """Training goes on while a checkpoint is written from a copy in memory, if the copy takes no more MiB
    than this; else it waits. 0: it always waits."""


class OutputConfig(Section):
    """Where the run is kept."""

    path: KeptAt
    """Run directory, local or gs://: config, checkpoints, metrics, report, export."""
