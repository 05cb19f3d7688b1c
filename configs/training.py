"""Sections of the training run itself."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from configs.indexes import BruteForceIndexConfig, IndexConfig
from configs.section import Path, Section, Seed

MAX_STEPS = 2**24  # a record keeps its last step as float32, exact up to here
DEFAULT_HORIZON = 0.01
"""Share of a run's steps that its averages look back over; docs/decisions.md has the measurements."""

_ADDRESS = r"grpc://[^\s,:/]+(:\d+)?"  # as TensorFlow splits them; its own port is 8470
_ADDRESSES = f"{_ADDRESS}(,{_ADDRESS})*"


def _kept_at(path: str) -> str:
    """A place that both TensorFlow and fsspec reach; file:// is a longer word for a local path."""
    path = path.removeprefix("file://")
    if "://" in path and not path.startswith("gs://"):
        raise ValueError(f"a local directory or gs://bucket/directory is possible here, {path} is neither")
    return path


KeptAt = Annotated[Path, AfterValidator(_kept_at)]


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


class EvaluateConfig(Section):
    """The ranking protocol. Every figure is reported with it."""

    every_steps: int = Field(0, ge=0)
    """Evaluate on valid every so many steps of training; 0: never while training."""
    protocol: Literal["full", "sampled"] = "full"
    """full ranks all items; sampled ranks each target among random unseen items."""
    negatives: int = Field(100, ge=1)
    """Random items per target under sampled: uniform, distinct, never interacted with by the user."""
    k: list[Annotated[int, Field(ge=1)]] = Field([10, 20], min_length=1)
    """Cut-offs of HR, Recall and NDCG."""
    exclude_seen: bool = True
    """Items of the user's earlier splits are neither ranked nor targets (full protocol)."""
    cold_items: Literal["miss", "rank"] = "miss"
    """Items without an id of their own, under sampled: miss leaves them out of the negatives and counts such
    targets as misses; rank draws negatives from all items of the data and scores cold ones, targets too, by
    the out-of-vocabulary row, as published tables of this protocol do. Under full they are misses."""
    max_users: int | None = Field(None, ge=1)
    """Evaluate a stable random sample of so many users; null: all."""
    weights: Literal["both", "average", "raw"] = "both"
    """Which weights are evaluated: both shows what averaging does, and scores every user twice."""
    seed: Seed = 0
    """Seed of the sampled negatives and users."""


class ExportConfig(Section):
    """What the SavedModel holds."""

    path: KeptAt | None = None
    """Directory of versioned SavedModels; <output.path>/export when not given."""
    weights: Literal["average", "raw"] = "average"
    """Which weights are served."""
    exclude_seen: bool = True
    """Keep each user's items in the model, so that recommend can leave them out."""
    max_k: int = Field(1000, ge=1)
    """Largest k that a request may ask for."""
    index: IndexConfig = BruteForceIndexConfig()
    """How the best items of a user are found."""


class _Device(Section):
    """What every device has: a processor in front of it."""

    kind: str = ""
    threads: int = Field(0, ge=0)
    """Threads of TensorFlow's kernels; 0: one per core. Bit-for-bit repeats need the same number."""

    @property
    def needs_local_chip(self) -> bool:
        """Whether this machine must have a TPU."""
        return False

    @property
    def is_named_tpu(self) -> bool:
        """Whether training connects to a TPU of other machines."""
        return False


class CpuDeviceConfig(_Device):
    """This machine's processor."""

    kind: Literal["cpu"] = "cpu"
    """Train on the CPU."""
    replicas: int = Field(1, ge=1, le=64)
    """Logical devices that share each batch, to rehearse a run of many; global negatives, so the numbers are
    those of one up to rounding. train.batch_size must be a multiple."""


class TpuDeviceConfig(_Device):
    """A slice of a Cloud TPU. Evaluation, export and plan of such a run need no TPU."""

    kind: Literal["tpu"]
    """Train on a TPU: tables in its embedding engine or SparseCores, towers on its TensorCores."""
    slice: str
    """Type of the slice, such as v4-8, v5p-8 or v6e-4."""
    name: str | None = Field(None, min_length=1)
    """Name of the TPU in its zone, or its hosts' addresses, grpc://ip:port with commas between; when not
    given, the TPU of the machine that this runs on."""
    zone: str | None = Field(None, min_length=1)
    """Zone of the named TPU."""
    project: str | None = Field(None, min_length=1)
    """Project of the named TPU; when not given, that of the default credentials."""
    connect_seconds: float = Field(300, gt=0)
    """Give up when the TPU does not answer for so long."""

    @model_validator(mode="after")
    def _place_of_a_name(self):
        if self.name is None and (self.zone or self.project):
            raise ValueError("zone and project belong to device.name, which is missing")
        if self.has_address:
            if self.zone or self.project:
                raise ValueError(
                    f"zone and project belong to a name, {self.name} is an address; leave them out"
                )
            if not re.fullmatch(_ADDRESSES, self.name):
                raise ValueError(
                    f"name: {self.name} is no address; write grpc://ip:port, with commas between"
                )
        elif self.name is not None and self.zone is None:
            raise ValueError(f"zone: missing, {self.name} is looked up in a zone such as us-east5-b; give it")
        return self

    @property
    def needs_local_chip(self) -> bool:
        return self.name is None

    @property
    def is_named_tpu(self) -> bool:
        return self.name is not None

    @property
    def has_address(self) -> bool:
        """Whether `name` is an address, which nobody need be asked for."""
        return self.name is not None and self.name.startswith("grpc://")


Device = Annotated[
    CpuDeviceConfig | TpuDeviceConfig,
    Field(discriminator="kind"),
    BeforeValidator(lambda value: {"kind": "cpu", **value} if isinstance(value, dict) else value),
]


class OutputConfig(Section):
    """Where the run is kept."""

    path: KeptAt
    """Run directory, local or gs://: config, checkpoints, metrics, report, export."""
