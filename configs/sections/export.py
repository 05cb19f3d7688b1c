"""The `export` section: what a served model holds, and how it finds the best items."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from configs.sections.base import KeptAt, Section


class BruteForceIndexConfig(Section):
    """Every item is scored."""

    exact: ClassVar[bool] = True
    """Whether the best items are always found."""
    package: ClassVar[str | None] = None
    """Package whose TensorFlow operations the index consists of, beside TensorFlow's own."""
    kind: Literal["brute_force"] = "brute_force"
    """Exact, and TensorFlow's own operations alone."""


class ScannIndexConfig(Section):
    """ScaNN: items of a few leaves of a tree are scored roughly, the best of them exactly."""

    exact: ClassVar[bool] = False
    package: ClassVar[str | None] = "scann"
    kind: Literal["scann"]
    """Approximate; export, `recommend` and servers need the operations of the scann package."""
    leaves: int | None = Field(None, ge=1)
    """Parts that the items are divided into; the square root of their number when not given."""
    leaves_to_search: int | None = Field(None, ge=1)
    """Parts that a request looks into, more where it asks for more items than they would hold; a tenth of
    the parts when not given, and at least 10."""
    reorder: int = Field(500, ge=1)
    """Candidates of a request that are scored exactly; at least twice as many as it asks for."""
    min_recall: float = Field(0.9, ge=0, le=1)
    """Nothing is published when fewer of the exact best 10 items are found, measured on 256 users."""

    @model_validator(mode="after")
    def _leaves_fit(self):
        if self.leaves and (self.leaves_to_search or 0) > self.leaves:
            raise ValueError(f"leaves_to_search {self.leaves_to_search} exceeds leaves {self.leaves}")
        return self


def package_of(kind: str | None) -> str | None:
    """The package that an index of this kind needs; None: none, or the kind is not known to this version."""
    sections = {"brute_force": BruteForceIndexConfig, "scann": ScannIndexConfig}
    return sections[kind].package if kind in sections else None


IndexConfig = Annotated[BruteForceIndexConfig | ScannIndexConfig, Field(discriminator="kind")]


class ExportConfig(Section):
    """What the SavedModel holds."""

    path: KeptAt | None = None
    """Directory of versioned SavedModels; <output.path>/export when not given."""
    weights: Literal["average", "raw"] = "average"
    """Which weights are served."""
    exclude_seen: bool = True
    """Keep each user's items in the model, so that recommend can leave them out."""
    max_k: int = Field(1000, ge=1)
    """Largest k that a request may ask for."""
    index: IndexConfig = BruteForceIndexConfig()
    """How the best items of a user are found."""
