"""The `evaluate` section: the protocol of retrieval models' metrics, and the details of ranking models'."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, Seed

ACTIVITY, AGE = "activity", "age"
"""What `by` divides users and items by besides features, in retrieval models."""
VECTORS = "vectors"
"""What `diversity` may name besides features."""
LOWER_IS_BETTER = ("log_loss", "normalised_entropy", "rmse", "mae")
"""Metrics of which a smaller value is better; of all others a larger one is."""


def is_better(metric: str, value: float, other: float) -> bool:
    """Whether a value of a metric (of one task, as TASK/metric) is better than another."""
    return value < other if metric.rpartition("/")[2] in LOWER_IS_BETTER else value > other


class BestConfig(Section):
    """The best checkpoint of a run, by a metric on valid."""

    metric: str
    """Name of the metric as `lazytower evaluate` prints it, such as ndcg@10 or auc; of one of several tasks
    as TASK/auc, else of the first one. Which way is better follows from it. Of the average, if the run has
    one at each step, else of the raw weights."""
    patience: int | None = Field(None, ge=1)
    """Stop the run after this many evaluations in a row that are no better than the best; null: never."""


class EvaluateConfig(Section):
    """What is measured, and how; the protocol is reported with every result."""

    only_for: ClassVar[dict[str, tuple[str, ...]]] = {
        "retrieval": (
            "protocol",
            "negatives",
            "k",
            "exclude_seen",
            "cold_items",
            "cold_users",
            "max_users",
            "diversity",
        ),
        "ranking": ("group_by", "slice_rows"),
    }
    """Keys that models of one family have, by the family (TwoTowerConfig.family)."""

    every_steps: int = Field(0, ge=0)
    """Evaluate on valid after every this many training steps; 0: never during training."""
    best: BestConfig | None = None
    """Keep the best checkpoint beside the newest ones; export and evaluate take it by default. null: they
    take the newest. Requires every_steps."""
    protocol: Literal["full", "sampled"] = "full"
    """full: rank all items; sampled: rank each target among random unseen items."""
    negatives: int = Field(100, ge=1)
    """Random items per target with protocol sampled: uniform, distinct, never interacted with by the user."""
    k: list[Annotated[int, Field(ge=1)]] = Field([10, 20], min_length=1)
    """Cut-offs of HR, Recall and NDCG."""
    exclude_seen: bool = True
    """Items that the user has in earlier splits are neither ranked nor targets (protocol full)."""
    cold_items: Literal["miss", "rank", "only"] = "miss"
    """Items without an id of their own, with protocol sampled. miss: they are never negatives, and as targets
    they count as misses. rank: negatives are sampled from all items of the data, and cold items are scored by
    the out-of-vocabulary row, as in published results of this protocol. With full they are misses. only, with
    full: rank the items without positive train rows that occur in the split among themselves, from their
    features; everything else is left out. It requires an item tower that reads a feature."""
    cold_users: Literal["skip", "rank"] = "skip"
    """Users without positive train rows. skip: they are not evaluated. rank: each of their rows in the split
    is ranked by their earlier rows there (and in valid) and by their features; a user counts with the mean
    over these rows. It requires a user tower that reads the history or a feature of the user."""
    max_users: int | None = Field(None, ge=1)
    """Evaluate a stable random sample of this many users; null: all."""
    weights: Literal["both", "average", "raw"] = "both"
    """Which weights are evaluated; both shows the effect of averaging and scores everything twice."""
    by: list[str] = []
    """Features by whose values metrics are reported too: categorical, crosses, lists (a row counts for each
    of its values) and numbers with buckets. In retrieval models features of users divide users, those of
    items divide targets, and there are two more names: activity, tenths by the number of positive train rows
    of the user and of the target's item, and age, the days since their first one, which requires timestamps.
    A feature with one of these names is reported too. `lazytower compare` compares runs by these values."""
    by_values: int = Field(20, ge=1, le=1000)
    """Values of each feature of `by` with a line of their own, the most frequent ones of the split; the
    others share one."""
    diversity: list[str] = []
    """What the diversity within lists of recommended items is measured by: vectors, the item vectors of the
    model, and names of item features with keys or buckets. With protocol full only."""
    group_by: str | None = None
    """Groups of the grouped AUC: user, item, or a feature with one key a row. Defaults to user if the source
    has users, else there is no grouped AUC."""
    bootstrap: int = Field(1000, ge=0, le=100_000)
    """Samples of the bootstrap intervals of metrics; 0: no intervals. 1,000 take less than a second for each
    line of figures, however many users or rows there are."""
    confidence: float = Field(0.95, gt=0, lt=1)
    """Share of the samples inside an interval."""
    slice_rows: int = Field(1000, ge=1)
    """Fewest rows of a slice (the rows of one value) in the report's table of the worst calibrated ones,
    which looks at the features of `by`, or without them at all features with keys."""
    seed: Seed = 0
    """Seed of the sampled negatives and users, and of the bootstrap."""

    def foreign_key(self, family: str) -> str | None:
        """A key with a value of its own that models of this family do not have; a saved config has the
        defaults. None: there is none."""
        for other, keys in self.only_for.items():
            for key in keys if other != family else ():
                field: Any = type(self).model_fields[key]
                if getattr(self, key) != field.get_default(call_default_factory=True):
                    return key
        return None

    @model_validator(mode="after")
    def _names_differ(self) -> "EvaluateConfig":
        for key in ("by", "diversity"):
            names = getattr(self, key)
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{key} names {name!r} twice; name it once")
        return self

    @model_validator(mode="after")
    def _protocol_ranks_them(self) -> "EvaluateConfig":
        if self.cold_items == "only" and self.protocol != "full":
            raise ValueError("cold_items: only requires protocol: full; set that, or use cold_items: rank")
        if self.diversity and self.protocol != "full":
            raise ValueError("diversity requires protocol: full, which ranks the catalog; remove it")
        return self
