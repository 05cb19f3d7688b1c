"""Names of the columns of records and catalogs; configs/manifest.py says what they hold."""

from configs.sections.ranking import MAIN_LABEL

LABEL = "label/"
"""Begins the names of columns with further labels."""


def label_column(name: str) -> str:
    """Column of records and batches with a label, named as a task names it."""
    return name if name == MAIN_LABEL else f"{LABEL}{name}"


def feature_as_of(name: str, split: str) -> str:
    """Column of a catalog with the value of a side feature that evaluation of a split may use."""
    return f"{name}@{split}"


def feature_of_column(column: str) -> str:
    """The side feature of a catalog column, as of any time."""
    return column.partition("@")[0]
