"""How often items occur in the rows that a run trains on, for sampled negatives and the logQ correction."""

import numpy as np
from absl import logging

from configs.dataset_parts import TableInfo
from trainer.data.blocks import read_blocks
from trainer.data.catalog import Items
from trainer.data.chain.layers import Layer
from trainer.data.train_rows import Part, TrainRows


def item_counts(rows: TrainRows, items: Items, exact: bool) -> np.ndarray:
    """Positive rows of each item among those that train, int64 [rows of the item table].

    The counts of a whole train split are in its catalog; rows that a window cuts, and held-out rows of a
    base, are counted in one pass over them. Items that occur elsewhere in the chain count once, so that they
    can be sampled.

    Args:
      rows: those that train.
      items: the catalog.
      exact: False: the counts of the chain's train rows do, in whatever rows train, and nothing is read.

    Raises:
      DataError: as `read_blocks`.
    """
    table = items.table
    if table is None:
        return items.table_counts
    if len(rows.layers) == 1 and (rows.is_whole or not exact):
        return with_unknown(items.table_counts, table, rows.dataset.splits["train"].positives)
    if not exact:
        below = [layer.dataset.splits.values() for layer in rows.layers[1:]]
        counted = [rows.dataset.splits["train"], *(info for splits in below for info in splits)]
        positives = sum(info.positives for info in counted)
        return with_unknown(items.table_counts, table, positives)
    found = np.zeros(table.rows, np.int64)
    for number, part in enumerate(rows.parts):
        if part.is_whole and not part.held_out:
            found += _of_catalog(rows.layers[part.layer], table)
        else:
            found += _of_rows(rows, number, part, table)
    known = np.zeros(table.rows, np.int64)
    known[items.ids] = 1
    return np.maximum(found, known)


def with_unknown(counts: np.ndarray, table: TableInfo, positives: int) -> np.ndarray:
    """Counts by row of the item table, with those of all unknown items, the rest of `positives` rows, at the
    unknown row. Of several such rows, each gets an equal part, as hashes divide keys on average."""
    if table.oov is None:
        return counts
    counts = np.array(counts[: table.rows])
    unknown = max(positives - int(counts.sum()), 0)
    counts[table.oov : table.oov + table.oov_rows] = -(-unknown // table.oov_rows)
    return counts


def _of_catalog(layer: Layer, table: TableInfo) -> np.ndarray:
    """As `item_counts`, of the train split of one dataset."""
    found = np.zeros(table.rows, np.int64)
    for block in read_blocks(layer.dataset, layer.dataset.items.files, ["id", "count"]):
        ids = layer.maps["item"].known(block["id"])
        mine = (ids < table.rows) & table.has_row(ids)
        np.add.at(found, ids[mine], block["count"][mine])
    return with_unknown(found, table, layer.dataset.splits["train"].positives)


def _of_rows(rows: TrainRows, number: int, part: Part, table: TableInfo) -> np.ndarray:
    """As `item_counts`, of the rows of one part."""
    logging.info("counting the items of %s rows", f"{part.info.rows:,}")
    found, ids_of = np.zeros(table.rows, np.int64), rows.layers[part.layer].maps["item"]
    files = [file for place, file in rows.files if place == number]
    for block in read_blocks(part.dataset, files, ["item", "timestamp", "label"]):
        ids = block["item"][part.keeps(block["timestamp"], block["label"])]
        found += np.bincount(table.row_of(ids_of.known(ids)), minlength=table.rows)
    return found
