"""Hyperparameters of the optimizers of embedding tables and of the towers."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from configs.section import Section
from configs.sm3 import SM3


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


def _kind(value) -> str:
    """The kind of a table optimizer's section, lazy_adam when it names none."""
    return value.get("kind", "lazy_adam") if isinstance(value, dict) else getattr(value, "kind", "lazy_adam")


TableOptimizer = Annotated[
    Annotated[LazyAdam, Tag("lazy_adam")] | Annotated[SM3, Tag("sm3")], Discriminator(_kind)
]


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
