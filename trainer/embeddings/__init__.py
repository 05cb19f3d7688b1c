"""Engines of embedding tables, by name."""

from trainer.embeddings.addons_table import AddonsTable
from trainer.embeddings.tables import RecordTable

ENGINES = {"rows": RecordTable, "tfa": AddonsTable}
