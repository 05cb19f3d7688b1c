"""Optimizers of table rows, by kind."""

from trainer.optimizers.lazy_adam import LazyAdam

ROW_OPTIMIZERS = {"lazy_adam": LazyAdam}
