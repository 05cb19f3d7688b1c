"""Hyperparameters of the optimizers, for embedding tables and for dense layers."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.sections.base import Section, of_kind


class _Rate(Section):
    """What all optimizers but SM3 share."""

    kind: str = ""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    clip_value: float | None = Field(None, gt=0)
    """Clip each element of a gradient (for a row: of its sum over the batch) to -clip_value..clip_value."""
    cluster_lacks: ClassVar[str] = ""
    """Why a table that is shared by several hosts cannot have this optimizer; empty: it can."""

    @property
    def tpu_lacks(self) -> str | None:
        """Why a TPU's embedding engine lacks this optimizer with these settings; None: it has it."""
        for name in ("clip_value", "weight_decay"):
            if getattr(self, name, None):
                return f"SparseCore ignores or refuses {name}; remove it"
        return None


class _Decayed(_Rate):
    """An optimizer with decoupled weight decay."""

    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Decoupled weight decay, as in AdamW: each update subtracts learning rate x weight_decay x weight. Rows
    without a gradient do not decay, except with adam."""


class _Moments(_Decayed):
    """The Adam family."""

    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(1e-7, gt=0)
    """Added outside the square root."""
    amsgrad: bool = False
    """Divide by the largest second moment so far instead of the current one (AMSGrad); needs one more
    slot."""


class LazyAdamConfig(_Moments):
    """Adam on touched rows only."""

    kind: Literal["lazy_adam"] = "lazy_adam"
    """Adam that updates moments and weights only of rows with a gradient (as LazyAdam of TF-Addons)."""
    bias_correction: Literal["global", "per_row", "none"] = "global"
    """Step count in the bias correction: global uses the run's steps, per_row the number of updates of the
    row (Sparse Adam); none omits the correction."""

    @property
    def addons_lacks(self) -> str | None:
        """The setting that tfa.optimizers.LazyAdam does not support, as written in the config; None: none."""
        if self.bias_correction != "global":
            return f"bias_correction: {self.bias_correction}"
        return next((name for name in ("amsgrad", "weight_decay", "clip_value") if getattr(self, name)), None)

    @property
    def tpu_lacks(self) -> str | None:
        if self.bias_correction == "per_row":
            return "the engine does not count a row's updates; use bias_correction: global"
        if self.amsgrad:
            return "the engine does not keep the largest second moment; remove amsgrad"
        return super().tpu_lacks


class TableLazyAdamConfig(LazyAdamConfig):
    """LazyAdam with the learning rate that suits rows of `tables`; LazyAdamConfig has TF-Addons' own."""

    learning_rate: float = Field(5e-3, gt=0)
    """Peak learning rate; the schedule multiplies it. Defaults to 0.002 for user rows that are added to the
    history."""


class AdamConfig(_Moments):
    """Dense Adam."""

    kind: Literal["adam"] = "adam"
    """Keras Adam. On a table it updates every row at every step, so it is slow: for comparison only."""
    tpu_lacks: ClassVar[str] = "SparseCore updates touched rows only; use lazy_adam"


class AdagradConfig(_Decayed):
    """Adagrad with an accumulator per weight."""

    kind: Literal["adagrad"]
    """Divides the rate by the root of the sum of squared gradients (Keras Adagrad)."""
    initial_accumulator_value: float = Field(0.1, ge=0)
    """Initial sum of squares of a weight."""
    epsilon: float = Field(1e-7, gt=0)
    """Added inside the square root."""

    @property
    def tpu_lacks(self) -> str | None:
        if self.initial_accumulator_value == 0:
            return "the engine has no epsilon and would divide by 0; set initial_accumulator_value above 0"
        return super().tpu_lacks


class RowwiseAdagradConfig(_Decayed):
    """Adagrad with an accumulator per row."""

    kind: Literal["rowwise_adagrad"]
    """Adagrad on the mean square of each row's gradient: one number per row (FBGEMM, TorchRec)."""
    initial_accumulator_value: float = Field(0.0, ge=0)
    """Initial sum of a row."""
    epsilon: float = Field(1e-8, gt=0)
    """Added outside the square root."""
    tpu_lacks: ClassVar[str] = "the engine's accumulators are as wide as the row; use adagrad"


class SGDConfig(_Decayed):
    """Plain gradient descent."""

    kind: Literal["sgd"]
    """Gradient descent without state."""


class MomentumConfig(_Decayed):
    """Gradient descent with momentum."""

    kind: Literal["momentum"]
    """Keras SGD with momentum; on a table only rows with a gradient move."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Fraction of the previous update that is added again."""
    nesterov: bool = False
    """Use Nesterov momentum (Sutskever et al. 2013)."""
    tpu_lacks: ClassVar[str] = (
        "the closest one of the engine, AdagradMomentum, divides by Adagrad's root; use lazy_adam or sgd"
    )


class FTRLConfig(_Rate):
    """Follow the regularized leader."""

    kind: Literal["ftrl"]
    """FTRL-Proximal (McMahan et al. 2013), which drives weights to exact zeros."""
    learning_rate_power: float = Field(-0.5, ge=-1, le=0)
    """The rate falls as the sum of squares to this power."""
    initial_accumulator_value: float = Field(0.1, gt=0)
    """Initial sum of squares of a weight."""
    l1: float = Field(0.0, ge=0)
    """Strength of the L1 penalty."""
    l2: float = Field(0.0, ge=0)
    """Strength of the stabilizing L2 penalty, which lowers the rate of every weight."""
    l2_shrinkage: float = Field(0.0, ge=0)
    """Strength of the L2 penalty on the size of weights: adds 2 x l2_shrinkage x weight to the gradient of
    rows that have one, but not to the sum of squares."""
    beta: float = Field(0.0, ge=0)
    """Added to the root of the sum of squares."""

    @property
    def tpu_lacks(self) -> str | None:
        if self.l2_shrinkage:
            return "the engine's FTRL has no shrinkage; remove l2_shrinkage or use l2"
        return super().tpu_lacks


class SM3Config(Section):
    """Adagrad with accumulators per row and per column instead of per value (Anil et al. 2019)."""

    kind: Literal["sm3"]
    """SM3-II on the touched rows: one float per row and one per column of state."""
    learning_rate: float = Field(0.1, gt=0)
    """Peak learning rate; the schedule multiplies it. It bounds the length of a step; with beta the bound is
    learning_rate / sqrt(1 - beta)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Decay of the averaged update; above 0 it needs as much memory as the weights."""
    beta: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of squared gradients; by default they are summed."""
    tpu_lacks: ClassVar[str] = "the engine does not have it; use adagrad"
    cluster_lacks: ClassVar[str] = "its state per column is shared by rows of all hosts; use rowwise_adagrad"


TableOptimizer = Annotated[
    TableLazyAdamConfig
    | AdamConfig
    | AdagradConfig
    | RowwiseAdagradConfig
    | SGDConfig
    | MomentumConfig
    | FTRLConfig
    | SM3Config,
    Field(discriminator="kind"),
    of_kind("lazy_adam"),
]
DenseOptimizer = Annotated[
    AdamConfig | AdagradConfig | SGDConfig | MomentumConfig | FTRLConfig,
    Field(discriminator="kind"),
    of_kind("adam"),
]
