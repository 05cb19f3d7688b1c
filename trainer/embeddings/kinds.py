"""Kinds of embeddings, by the `kind` of their section in the config."""

from trainer.embeddings import ENGINES
from trainer.embeddings.native_table import available
from trainer.embeddings.robe_z import RobeZ


def plain_table(name, rows, options, optimizer, average, batch_size, storage_type=None):
    """A trainer.embeddings.tables.Table of the configured engine.

    Args:
      name: of the table.
      rows: from the dataset.
      options: configs.models.TableConfig.
      optimizer: RowOptimizer.
      average: polyak rule or None.
      batch_size: unused here; other kinds choose by it.
      storage_type: Table class in place of the configured engine's.
    """
    engine = options.engine
    if engine == "auto":
        engine = "native" if storage_type is None and available(optimizer) else "rows"
    return (storage_type or ENGINES[engine])(name, rows, options.dim, optimizer, average)


KINDS = {"table": plain_table, "robe_z": RobeZ}
