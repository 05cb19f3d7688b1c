"""The losses of two-tower models, `model.loss`: which items a user's own item is compared with, and how."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from configs.sections.base import Section, of_kind


class _Temperature(Section):
    """What the softmax losses share."""

    temperature: float | None = Field(None, gt=0)
    """The scores are divided by it. Defaults to 1 without normalize; with it, to 0.1 if the user tower reads
    the history, else 0.15."""


class SoftmaxLossConfig(_Temperature):
    """Softmax over the items of the batch."""

    kind: Literal["in_batch"] = "in_batch"
    """In-batch sampled softmax (Yi et al. 2019): the items of the batch are candidates for all its rows."""
    logq: bool = True
    """Subtract log of each candidate's sampling probability (Yi et al. 2019, eq. 3)."""
    mask_accidental_hits: bool = True
    """Do not count candidates equal to the row's own item as negatives."""
    extra_negatives: int = Field(0, ge=0, le=1_000_000)
    """Items sampled for each batch, uniformly from those with train rows, as further candidates for all its
    rows (mixed negative sampling, Yang et al. 2020); logq then uses the probability under the mixture."""

    known_number: ClassVar[bool] = True
    """Whether the config says how many items a batch looks up."""

    def drawn(self, batch_size: int) -> int | None:
        """Items of a batch that are looked up as negatives; None: none."""
        return self.extra_negatives or None


class FullSoftmaxLossConfig(_Temperature):
    """Softmax over the whole catalog."""

    kind: Literal["full_softmax"]
    """Cross-entropy of the softmax over all items with train rows (Klenitskiy and Vasilev 2023, Turning Dross
    Into Gold Loss), which nothing has to correct. A step scores and updates every item, so it suits catalogs
    of some ten thousand items. On this machine's processor only, in one replica."""
    known_number: ClassVar[bool] = False
    """As SoftmaxLossConfig.known_number."""

    def drawn(self, batch_size: int) -> int | None:
        """As SoftmaxLossConfig.drawn: the whole catalog, whose size the config does not know."""
        return 0


class GbceLossConfig(Section):
    """Generalized binary cross-entropy."""

    kind: Literal["gbce"]
    """Binary cross-entropy of a row's item against sampled items, where the likelihood of the item is raised
    to a power below 1 that makes up for the sampling (Petrov and Macdonald 2023, gSASRec, eq. 8 and 14)."""
    negatives: int = Field(256, ge=1, le=100_000)
    """Items sampled for each row, uniformly from those with train rows; with user_tower.sequence all
    positions of a row share them."""
    calibration: float = Field(0.75, ge=0, le=1)
    """t of the paper: 1 calibrates scores to probabilities, 0 is plain binary cross-entropy."""
    known_number: ClassVar[bool] = True
    """As SoftmaxLossConfig.known_number."""

    def drawn(self, batch_size: int) -> int | None:
        """As SoftmaxLossConfig.drawn."""
        return batch_size * self.negatives


TwoTowerLoss = Annotated[
    SoftmaxLossConfig | FullSoftmaxLossConfig | GbceLossConfig,
    Field(discriminator="kind"),
    of_kind("in_batch"),
]
