"""Optimizers of table rows, by kind; each can also be used alone (see base.RowOptimizer)."""

from trainer.optimizers.adagrad import Adagrad
from trainer.optimizers.adam import Adam
from trainer.optimizers.ftrl import FTRL
from trainer.optimizers.lazy_adam import LazyAdam
from trainer.optimizers.momentum import Momentum
from trainer.optimizers.rowwise_adagrad import RowwiseAdagrad
from trainer.optimizers.sgd import SGD
from trainer.optimizers.sm3 import SM3
from trainer.optimizers.standalone.keras import (
    KerasShell as KerasShell,  # registers it, for saved Keras models
)

ROW_OPTIMIZERS = {
    "lazy_adam": LazyAdam,
    "adam": Adam,
    "adagrad": Adagrad,
    "rowwise_adagrad": RowwiseAdagrad,
    "sgd": SGD,
    "momentum": Momentum,
    "ftrl": FTRL,
    "sm3": SM3,
}
