"""The sections of the training run: schedule, polyak, train, init, checkpoint, output and day."""

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from configs.sections.base import KeptAt, Section, Seed

MAX_STEPS = 2**24  # a record stores its last step as float32, which is exact up to here


class ScheduleConfig(Section):
    """Multiplier of every learning rate over the run: warm-up, middle part, cool-down."""

    warmup_fraction: float = Field(0.05, ge=0, le=1)
    """Fraction of the steps in which the rate rises as (step / warm-up steps) ^ warmup_power."""
    warmup_power: float = Field(2.0, gt=0)
    """Exponent of the warm-up (the SM3 notes prefer 2)."""
    decay: Literal["constant", "cosine", "exponential"] = "constant"
    """The rate between warm-up and cool-down: constant, or falling to decay_to along half a cosine wave or by
    the same factor each step."""
    decay_to: float | None = Field(None, gt=0, le=1)
    """Fraction of the peak rate at which the decay ends; defaults to 0.01. Not allowed with constant."""
    cooldown_fraction: float | None = Field(None, ge=0, le=1)
    """Fraction of the steps, at the end, in which the rate falls linearly to 0. Defaults to 0.5, or what the
    warm-up leaves, with decay constant; to 0 with the other decays."""

    @model_validator(mode="after")
    def _fractions_fit(self) -> "ScheduleConfig":
        cooldown = self.cooldown_fraction
        if cooldown is None:
            # Sections are frozen once they are read; this one is still being read.
            falls = self.decay != "constant"
            cooldown = 0.0 if falls else min(0.5, 1.0 - self.warmup_fraction)
            self.__dict__["cooldown_fraction"] = cooldown
        if self.warmup_fraction + cooldown > 1:
            raise ValueError("warmup_fraction + cooldown_fraction exceeds 1; lower one of them")
        if self.decay_to is not None and self.decay == "constant":
            raise ValueError(
                "decay_to requires decay: cosine or exponential, found constant; remove it or change decay"
            )
        return self


class PolyakConfig(Section):
    """Averaging of all weights. By default the averages are evaluated and exported."""

    kind: Literal["exponential", "uniform", "tail_average", "none"] = "exponential"
    """exponential: avg = decay avg + (1 - decay) w; uniform: mean of the weights since the start step;
    tail_average: mean of the newest checkpoints, which costs no memory but covers few steps, and is not
    available to evaluations during training."""
    horizon_fraction: float | None = Field(None, gt=0, le=0.5)
    """Fraction of the run's steps that the average covers. Defaults to 0.002 if the schedule lowers the rate
    to the end, and to 0.05 if the rate stays constant. exponential decays by 1 - 1 / (that many steps),
    uniform is the mean over the last that many."""
    decay: float | None = Field(None, ge=0, lt=1)
    """Decay per step of the exponential average, instead of horizon_fraction: it covers 1 / (1 - decay)
    steps however long the run is. Not allowed with other kinds."""
    start_fraction: float | None = Field(None, ge=0, lt=1)
    """Fraction of the steps before averaging begins; until then the average is the weight itself. By default
    exponential begins after as many steps as it covers, at half of the run at the latest, so that it never
    contains the random initial weights; uniform begins with its horizon."""
    checkpoints: int | None = Field(None, ge=2)
    """Number of newest checkpoints that tail_average averages, all from the second half of the run; defaults
    to 5. Not allowed with other kinds."""

    @model_validator(mode="after")
    def _keys_are_used(self) -> "PolyakConfig":
        if self.decay is not None and self.kind != "exponential":
            raise ValueError(f"decay requires kind: exponential, found {self.kind}; remove it")
        if self.checkpoints is not None and self.kind != "tail_average":
            raise ValueError(f"checkpoints requires kind: tail_average, found {self.kind}; remove it")
        for key in ("horizon_fraction", "start_fraction"):
            if getattr(self, key) is not None and not self.at_each_step:
                raise ValueError(f"{key} requires kind: exponential or uniform, found {self.kind}; remove it")
        if self.horizon_fraction is not None:
            if self.decay is not None:
                raise ValueError(
                    "horizon_fraction and decay both set how far the average looks back; remove one"
                )
            if self.kind == "uniform" and self.start_fraction is not None:
                raise ValueError(
                    "horizon_fraction and start_fraction both set where a uniform average begins; remove one"
                )
        return self

    @property
    def needs_horizon(self) -> bool:
        """Whether horizon_fraction, which may not be set yet, decides what the average covers."""
        other = self.decay if self.kind == "exponential" else self.start_fraction
        return self.at_each_step and other is None

    @property
    def tail(self) -> int:
        """Checkpoints that are averaged; 0 unless kind is tail_average."""
        return (self.checkpoints or 5) if self.kind == "tail_average" else 0

    @property
    def at_each_step(self) -> bool:
        """Whether averages are updated at each step of the run."""
        return self.kind in ("exponential", "uniform")


class TrainConfig(Section):
    """Length of the run, its batches and its seed."""

    batch_size: int = Field(8192, ge=1)
    """Rows per step, over all replicas."""
    num_steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    """Steps of the run; give either this or num_epochs."""
    num_epochs: float | None = Field(None, gt=0)
    """Passes over the train split; give either this or num_steps."""
    steps_per_loop: int = Field(100, ge=1)
    """Steps in one call of a tf.function, between two returns to Python."""
    clip_norm: float | None = Field(None, gt=0)
    """Scale down all gradients, of towers and of the batch's distinct rows together, if their global norm
    exceeds this."""
    window_days: float | None = Field(None, gt=0)
    """Train on the rows of the last this many days before the newest train row, also of the datasets below
    dataset.base; null: on all train rows of the dataset, and on the held-out rows of its base. Requires
    source.roles.timestamp."""
    half_life_days: float | None = Field(None, gt=0)
    """A row weighs half as much as one that is this many days newer, times its own weight; null: age does not
    matter. Requires source.roles.timestamp."""
    skip_nonfinite: int = Field(0, ge=0)
    """Number of batches with a non-finite loss or gradient that a run may skip before it fails; 0: it fails
    at the first."""
    seed: Seed = 0
    """Seed of initial weights, order of the data, dropout and sampled negatives."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if (self.num_steps is None) == (self.num_epochs is None):
            raise ValueError("set exactly one of num_steps and num_epochs")
        return self


class CheckpointConfig(Section):
    """When checkpoints are written and how many are kept."""

    every_steps: int = Field(1000, ge=1)
    """Write a checkpoint after every this many steps, and at the end."""
    keep: int = Field(3, ge=1)
    """Number of newest checkpoints to keep, with those they build on; older ones are deleted."""
    incremental: bool = True
    """Write only the rows touched since the previous checkpoint; a restart reads the last full checkpoint and
    the increments after it. A full one is written if it is no larger than an increment."""
    compact_at: float = Field(1.0, ge=0)
    """Write a full checkpoint when the increments since the last one would exceed this multiple of its bytes,
    and at the last step already when they would exceed half of it, because evaluation and export read them
    all. A larger value saves writes but costs disk space and restart time."""
    async_memory_mb: int = Field(512, ge=0)
    """MiB of memory for writing a checkpoint while training continues. Tables of engine native copy the rows
    that are updated before they are written; when the copies take as much, steps wait for the writing. With
    other engines all rows to be written are copied first, or training waits if they take more. 0: it always
    waits."""


class OutputConfig(Section):
    """Where the results of the run are kept."""

    path: KeptAt
    """Run directory, local or gs://, with the config, checkpoints, metrics, report and export."""


class InitConfig(Section):
    """A warm start from another run. Rows of tables are matched by key: by ids along dataset.base if its
    dataset is below this run's, else by joining catalogs and vocabularies. Keys that the other run does not
    have start as in a run of their own."""

    from_: KeptAt = Field(alias="from")
    """Directory of the run, its output.path; its best checkpoint is taken, or else its newest good one."""
    weights: Literal["average", "raw"] = "average"
    """Which of its weights this run starts from; average falls back to raw if it has no averages."""
    slots: Literal["keep", "reset"] = "keep"
    """keep: optimizers continue with its moments and sums; reset: they start anew."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # `from` is a word of Python's own; saved configs have it all the same.
        values = dump(self)
        return {"from": values.pop("from_", None) or values.pop("from"), **values}


class DayConfig(Section):
    """`lazytower day`: the daily job."""

    path: KeptAt | None = None
    """Directory of the days, each with its dataset and run; defaults to days beside dataset.path."""
    metric: str | None = None
    """Metric that decides whether the new model is served, as evaluate.best.metric; by default that one, or
    ndcg@10 of retrieval and log_loss of ranking models."""
    tolerance: float = Field(0.02, ge=0, lt=1)
    """Largest fraction by which the new model may be worse than the served one on the same rows; beyond it
    the day is refused, and the served model stays."""
    keep: int = Field(7, ge=2)
    """Number of newest days whose runs are kept; datasets stay as long as later ones stand on them."""
