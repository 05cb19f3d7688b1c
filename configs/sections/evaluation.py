"""The `evaluate` section: the protocol of the ranking metrics."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from configs.sections.base import Section, Seed


class EvaluateConfig(Section):
    """The ranking protocol, which is reported with every result."""

    every_steps: int = Field(0, ge=0)
    """Evaluate on valid after every this many training steps; 0: never during training."""
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
    """Which weights are evaluated; both shows the effect of averaging and scores every user twice."""
    seed: Seed = 0
    """Seed of the sampled negatives and users."""

    @model_validator(mode="after")
    def _protocol_ranks_them(self) -> "EvaluateConfig":
        if self.cold_items == "only" and self.protocol != "full":
            raise ValueError("cold_items: only requires protocol: full; set that, or use cold_items: rank")
        return self
