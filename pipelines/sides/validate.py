"""Validation of side tables: as that of interactions (pipelines/rows/validate.py), with vectors and an order.

More reasons: wrong_width_<column> of vectors, and bad_order_by.
"""

import numpy as np
import pyarrow as pa

from configs.sections.features import VectorFeatureConfig
from pipelines.job import Job
from pipelines.rows.faults import Faults
from pipelines.rows.lists import bag_texts
from pipelines.rows.validate import check_steps, key_column, number_column, valid_rows
from pipelines.sides.order import order_numbers
from pipelines.sides.vectors import vector_columns
from pipelines.sources.reader import ORDER, Reject, SourcePiece


def validate_side(piece: SourcePiece, job: Job) -> tuple[pa.Table, list[Reject]]:
    """Types the columns of a piece of a side table.

    Args:
      job: one of Job.sides.

    Returns:
      table: the valid rows: _row, _line int64 and _path, where they are in the source; key and categorical
        and list features as in pipelines.rows.validate; numeric features float32, NaN where they are empty;
        vectors as pipelines/sides/vectors.py makes them; with order_by, the columns of `order_numbers`. No
        nulls.
      rejects: as in pipelines.rows.validate.
    """
    side, faults, rows = job.source, Faults(len(piece.rows)), len(piece.rows)
    path = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([piece.path]))
    columns = {"_row": pa.array(piece.rows), "_line": pa.array(piece.lines), "_path": path}
    columns["key"] = key_column(piece, side.of, job, faults)
    for name in job.categorical:
        columns[name] = key_column(piece, name, job, faults)
    for feature in job.lists:
        columns[feature.name] = bag_texts(piece, feature, side.nulls, side.clean_keys, faults)
    for name, steps in job.steps.items():
        columns[name] = number_column(piece, name, job, faults)
        check_steps(columns[name], name, steps, faults)
    for vector in side.features:
        if isinstance(vector, VectorFeatureConfig):
            columns |= vector_columns(piece.columns[vector.name], vector, side.nulls, faults)
    if side.order_by is not None:
        columns |= order_numbers(piece.columns[ORDER], faults)
    return valid_rows(piece, pa.table(columns), faults)
