"""The `source.roles` section: which column is the user, the item, a label, a time, a weight, a split."""

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from configs.sections.base import Section

PLANTED_LABEL = "planted_probability"
"""A further label that is not learned: the true probability of the label, where it is known."""


class LabelConfig(Section):
    """A further label."""

    column: str
    """Column with a number, or with one of `ones`. It may be empty: then the label is not known."""
    ones: list[str] = []
    """Values that count as 1, as text; all others count as 0. Empty: the column has numbers."""

    @field_validator("ones", mode="before")
    @classmethod
    def _as_text(cls, values: Any) -> Any:
        """YAML reads 1 and true as what they are; keys of the source are text."""
        if not isinstance(values, list):
            return values
        plain = [str(value).lower() if isinstance(value, bool) else value for value in values]
        return [str(value) if isinstance(value, int) else value for value in plain]


class RolesConfig(Section):
    """Which column of the source has which role."""

    user: str | None = "user"
    """Column with the user's key (any text or integer). null, only with model.kind ranking, where it is the
    default: rows have no user."""
    item: str | None = "item"
    """Column with the item's key (any text or integer). null: as for `user`."""
    label: str | None = None
    """Column with a number: a rating, or 0/1; dataset.positive defines which rows are positive. Without it
    every row is positive, with label 1."""
    labels: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], LabelConfig] = {}
    """Further labels, by name, which tasks of model.kind ranking predict. One named planted_probability is
    not predicted: it is the true probability of `label`, where that is known, as in synthetic data."""
    timestamp: str | None = None
    """Column with the time of the interaction. Without it rows count as ordered by time."""
    weight: str | None = None
    """Column with the weight of the row in the loss, at least 0."""
    split: str | None = None
    """Column with train, valid or test; only with dataset.split.kind: given."""

    @property
    def learned_labels(self) -> dict[str, LabelConfig]:
        """The further labels that tasks may predict."""
        return {name: label for name, label in self.labels.items() if name != PLANTED_LABEL}

    @model_validator(mode="after")
    def _labels_fit(self) -> "RolesConfig":
        if "label" in self.labels:
            raise ValueError("labels: 'label' is the name of source.roles.label; choose another name")
        if PLANTED_LABEL in self.labels and self.label is None:
            raise ValueError(
                f"labels: {PLANTED_LABEL} is the probability of source.roles.label; set label, or choose "
                "another name"
            )
        return self
