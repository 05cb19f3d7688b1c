"""`kind: table`: a row of weights for each id, kept by one of the engines."""

from trainer.embeddings.engines import TABLE_ENGINES
from trainer.embeddings.engines.native import available


def plain_table(name, rows, options, optimizer, average, batch_size, storage_type=None):
    """A trainer.embeddings.base.Table of the configured engine.

    Args:
      name: of the table.
      rows: from the dataset.
      options: configs.sections.tables.TableConfig.
      optimizer: RowOptimizer.
      average: polyak rule or None.
      batch_size: unused here; other kinds choose by it.
      storage_type: Table class in place of the configured engine's.
    """
    engine = options.engine
    if engine == "auto":
        engine = "native" if storage_type is None and available(optimizer) else "rows"
    return (storage_type or TABLE_ENGINES[engine])(name, rows, options.dim, optimizer, average)
