"""`kind: table`: a row of weights for each id, stored by one of the engines."""

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
      batch_size: unused; other kinds depend on it.
      storage_type: Table class, or function that makes one, to use instead of the configured engine's;
        None: none.
    """
    engine = options.engine
    if engine == "auto":
        engine = "native" if storage_type is None and available(optimizer) else "rows"
    return (storage_type or TABLE_ENGINES[engine])(name, rows, options.dim, optimizer, average)
