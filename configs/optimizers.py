"""Hyperparameters of the optimizers of embedding tables and of the towers."""

from typing import Literal

from pydantic import Field

from configs.section import Section


class LazyAdam(Section):
    """Adam on the touched rows only."""

    kind: Literal["lazy_adam"] = "lazy_adam"
    """Adam whose moments and weights move only on rows with a gradient (TF-Addons LazyAdam)."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(1e-7, gt=0)
    """Added outside the square root."""


TableOptimizer = LazyAdam


class DenseAdam(Section):
    """Keras Adam for towers."""

    kind: Literal["adam"] = "adam"
    """Keras Adam."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(1e-7, gt=0)
    """Added outside the square root."""
