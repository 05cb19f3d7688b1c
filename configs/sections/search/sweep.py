"""The document of `lazytower sweep`: which keys of a run's config are varied, how, and in how many runs."""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from configs.sections.base import KeptAt, Section, Seed, choice, chosen_by, of_kind

SWEPT_SECTIONS = ("model", "tables", "optimizer", "schedule", "polyak", "train", "init")
"""Sections of a run whose keys may be varied: those that do not change the dataset or what is measured."""


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"must be a number, found {value!r}")
    return value


Number = Annotated[Any, AfterValidator(_number)]
"""Whole or not, as it is written."""


class RangeConfig(Section):
    """Numbers between two bounds, both included."""

    low: Number
    """The lowest value; whole numbers in low, high and step make the key one of whole numbers."""
    high: Number
    """The highest value."""
    log: bool = False
    """Whether equal ratios are as likely as each other, as for learning rates, rather than equal
    differences."""
    step: Number | None = None
    """Distance between two values, from low up; null: 1 of whole numbers, any distance of others."""

    @property
    def is_whole(self) -> bool:
        """Whether values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def number(self) -> float:
        """How many values there are; infinity: any number."""
        step = self.step or (1 if self.is_whole else None)
        return math.inf if step is None else 1 + math.floor((self.high - self.low) / step + 1e-9)

    @model_validator(mode="after")
    def _bounds_fit(self) -> "RangeConfig":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be less than high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log requires low above 0, found {self.low}")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be greater than 0, found {self.step}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; remove one")
        return self


Choices = Annotated[list[Any], Field(min_length=1)]
SpaceOfKey = Annotated[
    Annotated[Choices, choice("values")] | Annotated[RangeConfig, choice("range")],
    chosen_by(lambda value: "values" if isinstance(value, list) else "range"),
]


class TpeSamplerConfig(Section):
    """Tree-structured Parzen estimator: values like those of good trials."""

    kind: Literal["tpe"]
    startup_trials: int = Field(10, ge=1)
    """Trials with random values before it begins."""


class RandomSamplerConfig(Section):
    """Independent random values."""

    kind: Literal["random"]


class GridSamplerConfig(Section):
    """All combinations of values, each once, in a random order. Ranges must be of whole numbers or have a
    step."""

    kind: Literal["grid"]


SamplerConfig = Annotated[
    Annotated[TpeSamplerConfig, Tag("tpe")]
    | Annotated[RandomSamplerConfig, Tag("random")]
    | Annotated[GridSamplerConfig, Tag("grid")],
    Discriminator("kind"),
    of_kind("tpe"),
]


class RungsConfig(Section):
    """What pruners that compare trials at rungs have in common."""

    first: float = Field(0.1, gt=0, lt=1)
    """Fraction of a trial's steps after which it may be stopped for the first time."""
    reduction: int = Field(3, ge=2)
    """One in this many trials continues from each rung; the next rung is this many times later."""


class AshaPrunerConfig(RungsConfig):
    """Asynchronous successive halving: at each rung only the best trials continue."""

    kind: Literal["asha"]


class HyperbandPrunerConfig(RungsConfig):
    """Several successive halvings, which begin at different rungs and share the trials."""

    kind: Literal["hyperband"]


class MedianPrunerConfig(Section):
    """Stops trials that are worse than the median of earlier ones at the same place."""

    kind: Literal["median"]
    first: float = Field(0.1, ge=0, lt=1)
    """Fraction of a trial's steps before which it is not stopped."""
    startup_trials: int = Field(5, ge=1)
    """Trials that run to their end before any is stopped."""


class NoPrunerConfig(Section):
    """All trials run to their end."""

    kind: Literal["none"]


PrunerConfig = Annotated[
    Annotated[AshaPrunerConfig, Tag("asha")]
    | Annotated[HyperbandPrunerConfig, Tag("hyperband")]
    | Annotated[MedianPrunerConfig, Tag("median")]
    | Annotated[NoPrunerConfig, Tag("none")],
    Discriminator("kind"),
    of_kind("asha"),
]


class SweepConfig(Section):
    """A search for good values of some keys of a run's config; evaluate.best.metric decides."""

    output: KeptAt
    """Directory of the sweep, local or gs://: trials/0, trials/1, ... are runs, best.yaml is the best one's
    config."""
    trials: int = Field(30, ge=1)
    """Runs to try; may be raised later. There are fewer if the space has fewer combinations."""
    seed: Seed = 0
    """Seed of the sampler. That of training is the config's train.seed, the same in all trials."""
    sampler: SamplerConfig = TpeSamplerConfig(kind="tpe")
    """What chooses values."""
    pruner: PrunerConfig = AshaPrunerConfig(kind="asha")
    """What stops bad trials early."""
    failures: int = Field(3, ge=1)
    """End the sweep when this many trials in a row have failed. A trial whose loss is not finite is a bad
    one, not a failed one."""
    storage: str | None = Field(None, min_length=1)
    """URL of an Optuna storage, such as postgresql://user@host/database; null: SQLite, a file in output."""
    study: str | None = Field(None, min_length=1)
    """Name of the study in that storage; defaults to the last part of output."""
    space: dict[str, SpaceOfKey] = Field(min_length=1)
    """Keys of the config and their values: `tables.item.dim: [32, 64]`, or `{low, high, log, step}`. `*` in
    place of a table's name stands for all tables. A value may be a whole section."""

    @property
    def combinations(self) -> float:
        """Of values; infinity if a key has any number of them."""
        return math.prod(v.number if isinstance(v, RangeConfig) else len(v) for v in self.space.values())

    @property
    def study_name(self) -> str:
        """Of the study in its storage."""
        return self.study or self.output.rstrip("/").rpartition("/")[2]

    @model_validator(mode="after")
    def _fits(self) -> "SweepConfig":
        for key, values in self.space.items():
            if inner := next((other for other in self.space if other.startswith(f"{key}.")), None):
                raise ValueError(f"space: {inner} is inside {key}; remove one of them")
            if key.partition(".")[0] not in SWEPT_SECTIONS:
                raise ValueError(
                    f"space: {key} cannot be varied, because trials share one dataset and are compared by "
                    f"one metric; use keys of {', '.join(SWEPT_SECTIONS)}"
                )
            endless = isinstance(values, RangeConfig) and math.isinf(values.number)
            if self.sampler.kind == "grid" and (endless or getattr(values, "log", False)):
                raise ValueError(
                    f"space: {key}: sampler.kind: grid requires a list of values, or whole numbers or a step "
                    "without log"
                )
        if self.output.startswith("gs://") and self.storage is None:
            raise ValueError("storage: missing, SQLite cannot keep its file in a bucket; set it")
        return self
