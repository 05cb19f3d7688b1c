"""Validation: raw columns become typed columns, and each invalid row a Reject with its first reason.

Reasons: wrong_column_count, unbalanced_quote, text_after_quote, stray_carriage_return, nul_byte,
line_too_long, not_utf8, invalid_json and wrong_type_<column> from the sources; missing_<role>,
newline_in_key, bad_<column> (not a number), not_finite_<column>, outside_log1p_<column>, negative_weight,
bad_timestamp, timestamp_out_of_range and unknown_split from here; weight_count_<column>,
bad_weight_<column>, not_finite_weight_<column>, negative_weight_<column> and control_character_in_<column>
from pipelines/rows/lists.py.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as compute

from configs.manifest import SPLITS
from configs.sections.features import Step
from configs.transforms import before_standardize
from pipelines.job import OWNERS, Job
from pipelines.rows.faults import Faults
from pipelines.rows.keys import are_null, break_lines, clean_keys
from pipelines.rows.lists import bag_texts
from pipelines.rows.numbers import parse_numbers
from pipelines.rows.times import LAST_TIME, to_nanoseconds
from pipelines.sources.reader import Reject, SourcePiece, in_reason
from pipelines.sources.text import decode

_KEYS = pa.dictionary(pa.int32(), pa.string())


def validate(piece: SourcePiece, job: Job) -> tuple[pa.Table, list[Reject]]:
    """Types the columns of a piece.

    Returns:
      table: the valid rows: _row int64; user, item, categorical and list features (as pipelines/rows/bags.py
        writes them) dictionary<int32, string>; timestamp int64 nanoseconds; label float32; weight float32 if
        the source has it; _split int8 if given; further labels and numeric features float32, NaN where they
        are empty. No nulls.
      rejects: the piece's own and those found here, by row.
    """
    faults = Faults(len(piece.rows))
    columns = {"_row": pa.array(piece.rows)}
    for name in (*job.owners, *job.categorical):
        columns[name] = key_column(piece, name, job, faults)
    for feature in job.lists:
        nulls, clean = getattr(job.source, "nulls", []), getattr(job.source, "clean_keys", False)
        columns[feature.name] = bag_texts(piece, feature, nulls, clean, faults)
    columns["timestamp"] = _timestamps(piece, job, faults)
    for name in ("label", "weight", *job.numeric):
        if name in piece.columns:
            columns[name] = number_column(piece, name, job, faults)
    for name, column in job.labels.items():
        if ones := job.source.roles.labels[name].ones:
            columns[column] = _text_label(piece, column, ones, job, faults)
        else:
            columns[column] = number_column(piece, column, job, faults)
    for name, steps in job.steps.items():
        check_steps(columns[name], name, steps, faults)
    if "label" not in columns:
        columns["label"] = pa.array(np.ones(len(piece.rows), np.float32))
    if "_split" in piece.columns:
        columns["_split"] = _splits(piece.columns["_split"], faults)
    return valid_rows(piece, pa.table(columns), faults)


def valid_rows(piece: SourcePiece, table: pa.Table, faults: Faults) -> tuple[pa.Table, list[Reject]]:
    """The rows without faults, and all rejects of the piece, by row."""
    bad = faults.rows()
    if not len(bad):
        return table, piece.rejects
    found = [
        Reject(int(piece.rows[i]), piece.path, int(piece.lines[i]), faults.reason(i), piece.raw(int(i)))
        for i in bad
    ]
    keep = np.ones(len(piece.rows), bool)
    keep[bad] = False
    return table.filter(pa.array(keep)), sorted(piece.rejects + found)


def key_column(piece: SourcePiece, name: str, job: Job, faults: Faults) -> pa.DictionaryArray:
    """Text or integers as dictionary; a missing category is the empty key."""
    values = _as_dictionary(piece.columns[name], faults)
    codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    keys, nulls = values.dictionary, getattr(job.source, "nulls", [])
    if getattr(job.source, "clean_keys", False):
        keys, *changes = clean_keys(keys)
        for what, changed in zip(("outer_blanks", "integer_as_float"), changes, strict=True):
            if changed is not None:
                piece.notes[f"{what}_{name}"] += int(np.append(changed, False)[codes].sum())
    null = are_null(keys, nulls)
    if null is not None:
        is_null = np.append(null, False)[codes]
        piece.notes[f"null_{name}"] += int(is_null.sum())
        codes = np.where(is_null, -1, codes).astype(np.int32)
    if name in OWNERS:
        empty = np.append(compute.equal(keys, "").to_numpy(zero_copy_only=False).astype(bool), True)
        faults.add(empty[codes], f"missing_{name}")
    if (broken := break_lines(keys)) is not None:
        faults.add(np.append(broken, False)[codes], "newline_in_key")
    if keys is values.dictionary and null is None and values.null_count == 0:
        return values
    distinct = pa.concat_arrays([keys, pa.array([""])]).dictionary_encode()  # some may have become equal
    return pa.DictionaryArray.from_arrays(pa.array(distinct.indices.to_numpy()[codes]), distinct.dictionary)


def _as_dictionary(values: pa.Array, faults: Faults) -> pa.DictionaryArray:
    if pa.types.is_dictionary(values.type):
        if values.type == _KEYS and values.dictionary.null_count == 0:
            return values
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values, bad = decode(values)
        faults.add(bad, "not_utf8")
    return values.cast(pa.string()).dictionary_encode()


def number_column(piece: SourcePiece, name: str, job: Job, faults: Faults) -> pa.Array:
    """float32 without nulls; NaN where a feature's `missing` applies."""
    values = _plain(piece.columns[name])
    numbers, bad = parse_numbers(_booleans_as_numbers(values))
    excused = np.zeros(len(numbers), bool)
    if name in job.numeric or name in job.labels.values():
        empty = _missing(values, numbers, bad, getattr(job.source, "nulls", []))
        if name in (*job.may_be_empty, *job.labels.values()):
            # NaN until pipelines/stages/group.py has recorded which values are empty
            piece.notes[f"null_{name}"] += int(empty.sum())
            numbers, bad, excused = np.where(empty, np.nan, numbers), bad & ~empty, empty
        else:
            bad |= empty
    with np.errstate(over="ignore"):
        numbers = numbers.astype(np.float32)
    faults.add(bad, f"bad_{in_reason(name)}")
    faults.add(~(excused | np.isfinite(numbers)), f"not_finite_{in_reason(name)}")
    if name == "weight":
        faults.add(numbers < 0, "negative_weight")
    return pa.array(numbers)


def _text_label(piece: SourcePiece, column: str, ones: list[str], job: Job, faults: Faults) -> pa.Array:
    """float32: 1 for one of `ones`, 0 for other text, NaN where it is empty."""
    values = key_column(piece, column, job, faults)
    wanted = pa.array(ones, pa.string())
    if getattr(job.source, "clean_keys", False):
        wanted = clean_keys(wanted).keys
    numbers = compute.is_in(values.dictionary, wanted).to_numpy(zero_copy_only=False).astype(np.float32)
    empty = compute.equal(values.dictionary, "").to_numpy(zero_copy_only=False).astype(bool)
    numbers[empty] = np.nan
    return pa.array(numbers[values.indices.to_numpy(zero_copy_only=False)])


def check_steps(values: pa.Array, name: str, steps: list[Step], faults: Faults) -> None:
    """Rejects numbers that have no logarithm."""
    if "log1p" in steps:
        numbers = values.to_numpy(zero_copy_only=False)
        after = before_standardize(steps, numbers, np)
        faults.add(np.isfinite(numbers) & ~np.isfinite(after), f"outside_log1p_{name}")


def _plain(values: pa.Array) -> pa.Array:
    """Values without dictionary encoding, bytes as text; bytes that are not UTF-8 become null."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type):
        values = decode(values)[0]
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def _booleans_as_numbers(values: pa.Array) -> pa.Array:
    """true and false, as text, as 1 and 0."""
    if not pa.types.is_string(values.type):
        return values
    lower = compute.ascii_lower(compute.utf8_trim_whitespace(values))
    place = compute.index_in(lower, pa.array(["false", "true"]))
    if place.null_count == len(place):
        return values
    return compute.if_else(place.is_valid(), compute.cast(place, pa.string()), values)


def _missing(values: pa.Array, numbers: np.ndarray, bad: np.ndarray, nulls: list[str]) -> np.ndarray:
    """Where a number is missing, bool [n]: null, NaN, blank text, or one of `nulls` as text or as number."""
    missing = values.is_null().to_numpy(zero_copy_only=False).astype(bool) | np.isnan(numbers)
    null_numbers, not_number = parse_numbers(pa.array(nulls, pa.string()))
    missing |= ~bad & np.isin(numbers, null_numbers[~not_number])
    if bad.any() and pa.types.is_string(values.type):
        text = compute.utf8_trim_whitespace(values)
        found = compute.is_in(text, pa.array(["", *nulls])).to_numpy(zero_copy_only=False)
        missing |= found.astype(bool)
    return missing


def _timestamps(piece: SourcePiece, job: Job, faults: Faults) -> pa.Array:
    """int64 nanoseconds; the row number if the source has no timestamps."""
    if "timestamp" not in piece.columns:
        return pa.array(piece.rows)
    times, bad = to_nanoseconds(piece.columns["timestamp"], getattr(job.source, "timestamp_unit", "s"))
    faults.add(bad, "bad_timestamp")
    faults.add((times < 0) | (times >= LAST_TIME), "timestamp_out_of_range")
    return pa.array(times)


def _splits(values: pa.Array, faults: Faults) -> pa.Array:
    values = _as_dictionary(values, faults)
    names = values.dictionary.to_pylist()
    known = [SPLITS.index(name) if name in SPLITS else -1 for name in names] + [-1]
    codes = np.array(known, np.int8)[values.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    faults.add(codes < 0, "unknown_split")
    return pa.array(codes)
