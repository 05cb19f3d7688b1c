"""Hyperparameters of SM3."""

from typing import Literal

from pydantic import Field

from configs.section import Section


class SM3(Section):
    """Adagrad whose accumulators are kept per row and per column instead of per value (Anil et al. 2019)."""

    kind: Literal["sm3"] = "sm3"
    """SM3-II on the touched rows: one float per row and one per column of state."""
    learning_rate: float = Field(0.1, gt=0)
    """Peak learning rate; the schedule multiplies it. No step is longer; with beta, / sqrt(1 - beta)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Decay of the averaged update; above 0 it costs as much memory as the weights."""
    beta: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of squared gradients; without it they accumulate."""
