"""Engines of embedding tables, by name."""

from trainer.embeddings.engines.native import NativeTable
from trainer.embeddings.engines.rows import RecordTable
from trainer.embeddings.engines.tfa import AddonsTable

TABLE_ENGINES = {"native": NativeTable, "rows": RecordTable, "tfa": AddonsTable}
