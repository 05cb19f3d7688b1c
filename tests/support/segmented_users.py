"""Users and items with features, for metrics by segment."""

from configs.sections.evaluation import ACTIVITY, AGE
from tests.support.tiny_dataset import Feature, Row, write_dataset
from trainer.data.catalog import Items, Users

BY = [ACTIVITY, AGE, "country", "brand"]


def segmented_users(path: str, rows: list[Row]) -> Users:
    """A dataset at `path`: countries of users by the end of their keys, brands of items by the beginning."""
    features = {
        "country": Feature("user", "categorical", {row.user: b"c" + row.user[-1:] for row in rows}),
        "brand": Feature("item", "categorical", {row.item: row.item[:2] for row in rows}),
    }
    source = {"kind": "tiny", "roles": {"timestamp": "time"}}
    dataset = write_dataset(path, rows, block_rows=16, history_length=4, features=features, source=source)
    return Users(dataset, Items.load(dataset))
