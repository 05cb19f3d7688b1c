"""The `evaluate` section: the protocol of the ranking metrics."""

from typing import Annotated, Literal

from pydantic import Field

from configs.sections.base import Section, Seed


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
