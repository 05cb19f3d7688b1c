"""Engines of embedding tables, by name."""

from trainer.embeddings.addons_table import AddonsTable
from trainer.embeddings.native_table import NativeTable
from trainer.embeddings.tables import RecordTable

ENGINES = {"native": NativeTable, "rows": RecordTable, "tfa": AddonsTable}
