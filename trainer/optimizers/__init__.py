"""Optimizers of table rows, by kind."""

from trainer.optimizers.lazy_adam import LazyAdam
from trainer.optimizers.sm3 import SM3Rows

ROW_OPTIMIZERS = {"lazy_adam": LazyAdam, "sm3": SM3Rows}
