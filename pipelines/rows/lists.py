"""Validation of list features: lists, or text with a separator, become bags (pipelines/rows/bags.py)."""

import collections
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.sections.features import ListFeatureConfig
from pipelines.rows import bags
from pipelines.rows.faults import Faults
from pipelines.rows.keys import are_null, break_lines, clean_keys
from pipelines.rows.numbers import parse_numbers
from pipelines.sources.reader import SourcePiece, weights_column
from pipelines.sources.text import decode


class _Lists(NamedTuple):
    """Distinct lists, and which of them each row has."""

    values: pa.Array
    """Of all lists, one after the other."""
    lengths: np.ndarray
    """int64 [lists]."""
    codes: np.ndarray
    """int64 [rows]: the list of each row."""

    def of_rows(self, per_list: np.ndarray) -> np.ndarray:
        return per_list[self.codes]


def bag_texts(
    piece: SourcePiece, feature: ListFeatureConfig, nulls: list[str], clean: bool, faults: Faults
) -> pa.DictionaryArray:
    """The bag of each row as text: dictionary<int32, string>. Notes and faults of rows are recorded.

    Args:
      nulls, clean: as in FilesConfig.
    """
    name = feature.name
    found = _lists(piece.columns[name], feature.separator)
    weights = None
    if feature.weights is not None:
        found, weights = _paired(found, _lists(piece.columns[weights_column(name)], feature.separator))
        faults.add(found.of_rows(found.lengths != weights.lengths), f"weight_count_{name}")
        numbers, bad = parse_numbers(_as_plain(weights.values))
    keys, kept = _keys(piece.notes, found, feature, nulls, clean, faults)
    owner = np.repeat(np.arange(len(found.lengths)), found.lengths)
    place = (
        np.cumsum(kept) - kept - np.r_[0, np.cumsum(kept)][np.cumsum(found.lengths) - found.lengths][owner]
    )
    longer = np.bincount(owner[kept], minlength=len(found.lengths)) > feature.max_length
    piece.notes[f"cut_{name}"] += int(np.count_nonzero(found.of_rows(longer)))
    kept &= place < feature.max_length
    values = None
    if weights is not None:
        equal = found.lengths == weights.lengths
        kept &= equal[owner]
        mine = np.flatnonzero(kept)
        # Members of unequal lists are gone, so both sides have the others at the same place of their list.
        start = np.cumsum(weights.lengths) - weights.lengths
        inside = mine - (np.cumsum(found.lengths) - found.lengths)[owner[mine]]
        chosen = start[owner[mine]] + inside
        values = _weights(numbers[chosen], bad[chosen], owner[mine], found, name, faults)
    lengths = np.bincount(owner[kept], minlength=len(found.lengths))
    texts = bags.join(keys.filter(pa.array(kept)), np.r_[0, np.cumsum(lengths)], values)
    distinct = texts.dictionary_encode()
    codes = found.of_rows(distinct.indices.to_numpy(zero_copy_only=False))
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), distinct.dictionary)


def _lists(column: pa.Array, separator: str | None) -> _Lists:
    """Lists of a column as read: text with a separator, or lists; null and empty text are empty lists."""
    if separator is None:
        if not _is_list(column.type):  # no value in the whole piece
            return _Lists(pa.array([], pa.string()), np.zeros(len(column), np.int64), np.arange(len(column)))
        lengths = compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        return _Lists(column.flatten(), lengths.astype(np.int64), np.arange(len(column)))
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    texts = pa.concat_arrays([column.dictionary.cast(pa.string()), pa.array([""])])
    codes = column.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False).astype(np.int64)
    filled = compute.not_equal(texts, "").to_numpy(zero_copy_only=False).astype(bool)
    parts = compute.split_pattern(texts.filter(pa.array(filled)), separator)
    lengths = np.zeros(len(texts), np.int64)
    lengths[filled] = compute.list_value_length(parts).to_numpy(zero_copy_only=False)
    return _Lists(parts.flatten(), lengths, codes)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _paired(first: _Lists, second: _Lists) -> tuple[_Lists, _Lists]:
    """Both with one list for each distinct pair of lists, and the same codes."""
    pairs, codes = np.unique(first.codes * (len(second.lengths) + 1) + second.codes, return_inverse=True)
    lists = divmod(pairs, len(second.lengths) + 1)
    return _chosen(first, lists[0], codes), _chosen(second, lists[1], codes)


def _chosen(found: _Lists, lists: np.ndarray, codes: np.ndarray) -> _Lists:
    ends = np.cumsum(found.lengths)
    lengths = found.lengths[lists]
    begin = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum())) + np.repeat((ends - found.lengths)[lists] - begin, lengths)
    return _Lists(found.values.take(pa.array(places)), lengths, codes)


def _keys(
    notes: collections.Counter[str],
    found: _Lists,
    feature: ListFeatureConfig,
    nulls: list[str],
    clean: bool,
    faults: Faults,
) -> tuple[pa.Array, np.ndarray]:
    """Cleaned keys of all lists, and bool [keys], which of them count: not those that are missing."""
    rows = np.bincount(found.codes, minlength=len(found.lengths))  # of each list
    owner = np.repeat(np.arange(len(found.lengths)), found.lengths)
    values = found.values
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type):
        values, bad = decode(values)
        _blame(faults, found, owner[bad], "not_utf8")
    values = values.cast(pa.string())
    encoded = values.dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    keys = encoded.dictionary
    if clean:
        keys, *changes = clean_keys(keys)
        for what, changed in zip(("outer_blanks", "integer_as_float"), changes, strict=True):
            if changed is not None:
                where = np.append(changed, False)[codes]
                notes[f"{what}_{feature.name}"] += int(rows[owner[where]].sum())
    null = are_null(keys, nulls)
    empty = compute.equal(keys, "").to_numpy(zero_copy_only=False).astype(bool)
    if null is not None:
        notes[f"null_{feature.name}"] += int(rows[owner[np.append(null, False)[codes]]].sum())
        empty = empty | null
    kept = ~np.append(empty, True)[codes]
    if (broken := break_lines(keys)) is not None:
        _blame(faults, found, owner[np.append(broken, False)[codes]], "newline_in_key")
    reserved = compute.match_substring_regex(keys, bags.RESERVED).to_numpy(zero_copy_only=False).astype(bool)
    if reserved.any():
        _blame(
            faults, found, owner[np.append(reserved, False)[codes]], f"control_character_in_{feature.name}"
        )
    return pa.concat_arrays([keys, pa.array([""])]).take(
        pa.array(np.where(codes < 0, len(keys), codes))
    ), kept


def _weights(
    numbers: np.ndarray, bad: np.ndarray, owner: np.ndarray, found: _Lists, name: str, faults: Faults
) -> np.ndarray:
    """float32 weights; bad ones are faults of their rows."""
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    for mask, reason in (
        (bad, f"bad_weight_{name}"),
        (~np.isfinite(numbers), f"not_finite_weight_{name}"),
        (numbers < 0, f"negative_weight_{name}"),
    ):
        _blame(faults, found, owner[mask], reason)
    return numbers + np.float32(0)  # no -0.0, which would make two bags of one


def _blame(faults: Faults, found: _Lists, lists: np.ndarray, reason: str) -> None:
    if len(lists):
        wrong = np.zeros(len(found.lengths), bool)
        wrong[lists] = True
        faults.add(found.of_rows(wrong), reason)


def _as_plain(values: pa.Array) -> pa.Array:
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
