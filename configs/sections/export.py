"""The `export` section: what a served model holds, and how it finds the best items."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from configs.sections.base import KeptAt, Section


class BruteForceIndexConfig(Section):
    """Scores every item."""

    exact: ClassVar[bool] = True
    """Whether the best items are always found."""
    package: ClassVar[str | None] = None
    """Package whose TensorFlow operations the index consists of, beside TensorFlow's own."""
    min_recall: ClassVar[float] = 1.0
    kind: Literal["brute_force"] = "brute_force"
    """Exact; needs only TensorFlow's own operations."""


class ScannIndexConfig(Section):
    """ScaNN: scores the items of a few leaves of a tree approximately, then the best of them exactly."""

    exact: ClassVar[bool] = False
    package: ClassVar[str | None] = "scann"
    kind: Literal["scann"]
    """Approximate; `export`, `recommend` and servers need the operations of the scann package."""
    leaves: int | None = Field(None, ge=1)
    """Number of partitions of the items; defaults to the square root of the number of items."""
    leaves_to_search: int | None = Field(None, ge=1)
    """Number of partitions that a request searches, more if it asks for more items than those hold. Defaults
    to a tenth of `leaves`, at least 10."""
    reorder: int = Field(500, ge=1)
    """Candidates of a request that are scored exactly; at least twice the number of items asked for."""
    min_recall: float = Field(0.9, ge=0, le=1)
    """Publish nothing if the index finds a smaller share of the exact top 10, measured on 256 users."""

    @model_validator(mode="after")
    def _leaves_fit(self) -> "ScannIndexConfig":
        if self.leaves and (self.leaves_to_search or 0) > self.leaves:
            raise ValueError(
                f"leaves_to_search: {self.leaves_to_search} exceeds leaves {self.leaves}; lower it"
            )
        return self


def package_of(kind: str | None) -> str | None:
    """The package that an index of this kind needs; None: none, or the kind is not known to this version."""
    packages = {"brute_force": BruteForceIndexConfig.package, "scann": ScannIndexConfig.package}
    return packages.get(kind) if kind else None


IndexConfig = Annotated[BruteForceIndexConfig | ScannIndexConfig, Field(discriminator="kind")]


class ExportConfig(Section):
    """What the SavedModel contains."""

    path: KeptAt | None = None
    """Directory of versioned SavedModels; defaults to <output.path>/export."""
    weights: Literal["average", "raw"] = "average"
    """Which weights are served."""
    exclude_seen: bool = True
    """Store each user's items in the model, so that recommend can leave them out."""
    cold_items: Literal["serve", "leave_out"] | None = None
    """Items without train rows, or with fewer than dataset.item_ids.min_count. serve: they are recommended
    like others, by the vector of the out-of-vocabulary row and their features, if any feature that the item
    tower reads is known of them; leave_out: they are not recommended. Defaults to serve if the item tower
    reads features of a side table and has learned to do without the item's row (item_tower.id_dropout, or no
    input item), else to leave_out."""
    max_k: int = Field(1000, ge=1)
    """Largest k of a request."""
    index: IndexConfig = BruteForceIndexConfig()
    """How the best items for a user are found."""
