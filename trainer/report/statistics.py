"""Statistics of trained tables, and the run's report that includes them."""

import numpy as np

from configs.load import dump_config
from configs.manifest import Dataset
from configs.schema import RunConfig
from trainer.report.document import write_report

# A million rows: norms of more of them say no more, but have to be read, in an evaluation from disk.
_MOST_CHUNKS = 16


def write_run_report(config: RunConfig, dataset: Dataset, recommender, step: int) -> str:
    """Writes <output.path>/report.html from the run's metrics and tables as of `step`; returns its path."""
    facts = []
    for name, table in recommender.tables.items():
        # Evaluation reads tables with another engine; the report names the one that trained them.
        trained_by = {"engine": config.table(name).trained_by}
        facts.append(table_statistics(table, step) | trained_by)
    return write_report(config.output.path, dataset.model_dump(mode="json"), facts, dump_config(config))


def table_statistics(table, step: int) -> dict:
    """Statistics of a table, read chunk by chunk; of a large one those of chunks at equal distances.

    Args:
      table: trainer.embeddings.base.Table; norms are over the rows of its storage.
      step: training steps done; averages are brought up to it.
    """
    storage = table.storage
    chunks = storage.chunks()
    if len(chunks) > _MOST_CHUNKS:
        chunks = [chunks[i] for i in np.linspace(0, len(chunks) - 1, _MOST_CHUNKS).round().astype(int)]
    row_norms, distances, touched = [], [], 0
    for start, stop in chunks:
        ids = np.arange(start, stop, dtype=np.int64)
        norm, distance, last = np.asarray(storage.row_norms(ids, float(step))).T
        row_norms.append(norm)
        touched += int(np.count_nonzero(last))
        if table.average is not None:
            distances.append(distance)
    norms = np.concatenate(row_norms)
    facts = {
        "name": table.label,
        "rows": table.rows,
        "dim": table.dim,
        "engine": table.engine,
        "optimizer": table.optimizer.config.kind,
        "table_bytes": table.bytes,
        "sampled_rows": len(norms),
        "weight_norm_mean": float(norms.mean()),
        "weight_norm_p99": float(np.quantile(norms, 0.99)),
        "touched_rows_share": touched / len(norms),
    }
    if table.average is not None:
        facts["average_to_weight_distance_mean"] = float(np.concatenate(distances).mean())
    return facts
