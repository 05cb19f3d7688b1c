"""Hyperparameters of the optimizers of embedding tables and of the towers."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.sections.base import Section, of_kind


class _Rate(Section):
    """What every optimizer has."""

    kind: str = ""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate; the schedule multiplies it."""
    clip_value: float | None = Field(None, gt=0)
    """Each element of a gradient (of a row: summed over the batch) is cut to -clip_value..clip_value."""

    @property
    def tpu_lacks(self) -> str | None:
        """Why a TPU's embedding engine has no such optimizer with these semantics; None: it has."""
        for name in ("clip_value", "weight_decay"):
            if getattr(self, name, None):
                return f"SparseCore ignores or refuses what {name} asks for; leave it out"
        return None


class _Decayed(_Rate):
    """An optimizer whose weights can shrink of themselves."""

    weight_decay: float = Field(0.0, ge=0, lt=1)
    """Weights also lose learning rate x weight_decay x themselves in each update (decoupled, as AdamW); rows
    that have no gradient do not, except under adam."""


class _Moments(_Decayed):
    """The Adam family."""

    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment."""
    epsilon: float = Field(1e-7, gt=0)
    """Added outside the square root."""
    amsgrad: bool = False
    """Divide by the largest second moment so far instead of the present one (AMSGrad); one more slot."""


class LazyAdamConfig(_Moments):
    """Adam on the touched rows only."""

    kind: Literal["lazy_adam"] = "lazy_adam"
    """Adam whose moments and weights move only on rows with a gradient (TF-Addons LazyAdam)."""
    bias_correction: Literal["global", "per_row", "none"] = "global"
    """Steps in the bias correction: global takes the run's, per_row the row's own updates (Sparse Adam), none
    leaves the correction out."""

    @property
    def addons_lacks(self) -> str | None:
        """What of this tfa.optimizers.LazyAdam does not have, as it stands in the config."""
        if self.bias_correction != "global":
            return f"bias_correction: {self.bias_correction}"
        return next((name for name in ("amsgrad", "weight_decay", "clip_value") if getattr(self, name)), None)

    @property
    def tpu_lacks(self) -> str | None:
        if self.bias_correction == "per_row":
            return "the engine keeps no count of a row's updates; use bias_correction: global"
        if self.amsgrad:
            return "the engine keeps no largest second moment; leave amsgrad out"
        return super().tpu_lacks


class TableLazyAdamConfig(LazyAdamConfig):
    """LazyAdam as the `tables` section has it, at the rate that suits rows; alone it has TF-Addons' own."""

    learning_rate: float = Field(5e-3, gt=0)
    """Peak learning rate; the schedule multiplies it. When not given, 0.002 for user rows that are added to
    the history."""


class AdamConfig(_Moments):
    """Dense Adam."""

    kind: Literal["adam"] = "adam"
    """Keras Adam. On a table every row moves at every step: for comparison only, it passes over the table."""
    tpu_lacks: ClassVar[str] = "SparseCore is always lazy; use lazy_adam"


class AdagradConfig(_Decayed):
    """Adagrad with an accumulator per weight."""

    kind: Literal["adagrad"]
    """Rate divided by the root of the sum of squared gradients (Keras Adagrad)."""
    initial_accumulator_value: float = Field(0.1, ge=0)
    """The sum of squares that a weight starts from."""
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
    """The sum that a row starts from."""
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
    """Keras SGD with momentum; on a table only rows with a gradient coast."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last move that is repeated."""
    nesterov: bool = False
    """Look ahead (Sutskever et al. 2013)."""
    tpu_lacks: ClassVar[str] = "AdagradMomentum, the nearest it has, divides by Adagrad's root"


class FTRLConfig(_Rate):
    """Follow the regularized leader."""

    kind: Literal["ftrl"]
    """FTRL-Proximal (McMahan et al. 2013), which drives weights to exact zeros."""
    learning_rate_power: float = Field(-0.5, ge=-1, le=0)
    """The rate falls as the sum of squares to this power."""
    initial_accumulator_value: float = Field(0.1, gt=0)
    """The sum of squares that a weight starts from."""
    l1: float = Field(0.0, ge=0)
    """Strength of the L1 penalty."""
    l2: float = Field(0.0, ge=0)
    """Strength of the L2 penalty that stabilizes: it lowers the rate of every weight."""
    l2_shrinkage: float = Field(0.0, ge=0)
    """Strength of the L2 penalty on the weights' size: it adds 2 x l2_shrinkage x weight to the gradient of
    rows that have one, but not to the sum of squares."""
    beta: float = Field(0.0, ge=0)
    """Added to the root of the sum of squares."""

    @property
    def tpu_lacks(self) -> str | None:
        if self.l2_shrinkage:
            return "the engine's FTRL has no shrinkage; leave l2_shrinkage out, or use l2"
        return super().tpu_lacks


class SM3Config(Section):
    """Adagrad whose accumulators are kept per row and per column instead of per value (Anil et al. 2019)."""

    kind: Literal["sm3"]
    """SM3-II on the touched rows: one float per row and one per column of state."""
    learning_rate: float = Field(0.1, gt=0)
    """Peak learning rate; the schedule multiplies it. No step is longer; with beta, / sqrt(1 - beta)."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Decay of the averaged update; above 0 it costs as much memory as the weights."""
    beta: float | None = Field(None, gt=0, lt=1)
    """Decay of a moving average of squared gradients; without it they accumulate."""
    tpu_lacks: ClassVar[str] = "the engine has no such optimizer"


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
