"""What the columns of a sample seem to be: keys of users and items, times, labels, and features."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from configs.sections.features import RESERVED_NAMES
from configs.sections.sources import NULLS
from pipelines.guess.sample import Sample, Value, is_number
from pipelines.rows.times import to_nanoseconds

_NAMES = {
    "user": "user userid uid customer customerid visitor visitorid member memberid client clientid account "
    "accountid reviewer reviewerid listener session sessionid person personid viewer u",
    "item": "item itemid iid product productid movie movieid track trackid song songid article articleid "
    "asin parentasin sku book bookid isbn business businessid video videoid ad adid artist artistid "
    "content contentid news newsid game gameid app appid recipe recipeid i",
    "timestamp": "timestamp time ts date datetime eventtime eventtimestamp unixreviewtime createdat created "
    "unixtime t datestamp reviewtime when",
    "label": "label rating stars score click clicked isclick target overall like liked purchase y watched "
    "playcount plays count",
    "weight": "weight importance sampleweight",
    "split": "split fold set partition",
}
_RATINGS = "rating stars score overall".split()
_COUNTS = "click clicked isclick purchase y watched playcount plays count".split()
_SEPARATORS = "|;,/ "
_MOST_CATEGORIES = 0.5  # share of distinct values above which text is a title rather than a category
_FEW_NUMBERS = 20
_UNITS = [(1e8, 2e10, "s"), (1e11, 2e13, "ms"), (1e14, 2e16, "us"), (1e17, 2e19, "ns")]


@dataclasses.dataclass
class Guess:
    """A guessed part of the YAML, and the reason for it."""

    value: dict[str, object]
    reason: str


def plain(name: str) -> str:
    """A column's name without case, marks and RecBole's `:token`."""
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def find_roles(sample: Sample) -> dict[str, tuple[str, str]]:
    """(column, reason) of each role that a sample of interactions has; user and item may be missing."""
    roles: dict[str, tuple[str, str]] = {}
    for role, names in _NAMES.items():
        known = names.split()
        found = [n for n in sample.names if plain(n) in known and _fits(role, sample, n)]
        if found:
            roles[role] = (min(found, key=lambda n: known.index(plain(n))), "by its name")
    for role, find in (
        ("timestamp", _find_time),
        ("user", _find_key),
        ("item", _find_key),
        ("label", _find_label),
    ):
        if role not in roles:
            taken = {column for column, _ in roles.values()}
            if guessed := find(sample, [name for name in sample.names if name not in taken]):
                roles[role] = guessed
    return {role: roles[role] for role in _NAMES if role in roles}


def _find_time(sample: Sample, names: list[str]) -> tuple[str, str] | None:
    for name in names:
        if not _constant(sample.columns[name]) and time_unit(sample, name):
            return name, "its values are times"
    return None


def _find_key(sample: Sample, names: list[str]) -> tuple[str, str] | None:
    name = next((name for name in names if _is_key(sample.columns[name])), None)
    return (name, "the first column of keys that is left; check it") if name else None


def _find_label(sample: Sample, names: list[str]) -> tuple[str, str] | None:
    for name in names:
        numbers = numbers_of(sample.columns[name])
        if numbers is not None and 2 <= len(np.unique(numbers)) <= 11 and -1 <= numbers.min():
            if numbers.max() <= 10:
                return name, f"numbers from {numbers.min():g} to {numbers.max():g}; check it"
    return None


def _fits(role: str, sample: Sample, name: str) -> bool:
    """Whether a column's values suit its role."""
    values = sample.columns[name]
    if any(isinstance(value, list) for value in values):
        return False
    if role in ("label", "weight"):
        return numbers_of(values) is not None
    if role == "timestamp":
        return time_unit(sample, name) is not None
    if role == "split":
        found = {value for value in values if isinstance(value, str)}
        return bool(found) and found <= {"train", "valid", "test"}
    return True


def _constant(values: Iterable[Value]) -> bool:
    return len({str(value) for value in values}) < 2


def _is_key(values: Sequence[Value]) -> bool:
    texts = [value for value in values if isinstance(value, str)]
    if len(texts) < 0.9 * len(values):
        return False
    return all("." not in text or not is_number(text) for text in texts[:1000])


def _present(values: Sequence[Value]) -> list[str | list[str]]:
    """The values that are not missing."""
    nulls = set(NULLS)
    return [v for v in values if v is not None and (isinstance(v, list) or (v and v not in nulls))]


def numbers_of(values: Sequence[Value]) -> np.ndarray | None:
    """The numbers of a column, float64, without its empty values; None: some are not numbers."""
    texts = _present(values)
    if not texts or not all(isinstance(text, str) and is_number(text) for text in texts):
        return None
    numbers = np.array([float(text) for text in texts if isinstance(text, str)])
    return numbers if np.isfinite(numbers).all() else None


def time_unit(sample: Sample, name: str) -> tuple[str, str] | None:
    """(source.timestamp_unit, reason) of a column of times; None: it is not one."""
    declared = sample.types.get(name)
    if declared is not None and (pa.types.is_timestamp(declared) or pa.types.is_date(declared)):
        return "iso8601", f"Parquet type {declared}"
    values = sample.columns[name]
    numbers = numbers_of(values)
    if numbers is not None:
        low, high = np.quantile(numbers, [0.05, 0.95])
        for least, most, unit in _UNITS:
            if least <= low and high < most:
                return unit, f"the numbers, around {numbers.mean():.3g}, are {unit} since 1970"
        return None
    texts = [value for value in values if isinstance(value, str)][:1000]
    if not texts:
        return None
    bad = to_nanoseconds(pa.array(texts), "iso8601")[1]
    return ("iso8601", f"dates such as {texts[0]!r}") if bad.mean() < 0.01 else None


def label_advice(name: str, values: Sequence[Value]) -> tuple[str | float, str]:
    """dataset.positive for a column of labels, and why."""
    numbers = numbers_of(values)
    assert numbers is not None, "a column with other values has not got the role"
    distinct = np.unique(numbers)
    above = f"{float((numbers > 0).mean()):.0%} of the rows have a label above 0"
    if distinct.max() <= 0:
        return "all", "no label is above 0, so they cannot tell which rows are positive; check the column"
    if len(distinct) == 1:
        return "all", f"every label is {distinct[0]:g}"
    if set(distinct.tolist()) <= {-1, 0, 1}:
        return "above_zero", f"labels are {_listing(distinct)}; {above}"
    if _is_rating(plain(name), distinct):
        scale = distinct[distinct > 0]
        # The upper quarter of the scale: 4 of 1 to 5, 8 of 1 to 10.
        least = float(scale[scale >= scale[0] + 0.75 * (scale[-1] - scale[0])][0])
        share = float((numbers >= least).mean())
        found = f"ratings from {distinct[0]:g} to {distinct[-1]:g}; {share:.0%} of the rows have at least "
        return int(
            least
        ) if least.is_integer() else least, found + f"{least:g}. With above_zero low ratings are positive too"
    return "above_zero", f"numbers from {distinct[0]:g} to {distinct[-1]:g}, such as counts; {above}"


def _listing(numbers: np.ndarray) -> str:
    *others, last = [f"{number:g}" for number in numbers]
    return f"{', '.join(others)} and {last}"


def _is_rating(name: str, distinct: np.ndarray) -> bool:
    """Whether labels are on a scale, by the column's plain name and its distinct values."""
    if name in _COUNTS or distinct[0] < 0 or len(distinct) < 3 or distinct[-1] > 100:
        return False
    steps = bool((distinct * 2 == np.round(distinct * 2)).all())
    # A count begins at 0 or has a long tail; of a column of unknown meaning only a short scale is a rating.
    return name in _RATINGS or (steps and distinct[0] > 0 and distinct[-1] <= 10)


def owner_of(sample: Sample, name: str, user: str, item: str) -> tuple[str, str]:
    """(of, reason): whom a column of the interactions describes, by whether it varies within them."""
    values = [str(value) for value in sample.columns[name]]
    for owner, key in (("item", item), ("user", user)):
        seen: dict[str, str] = {}
        repeats = differs = 0
        for who, value in zip(sample.columns[key], values, strict=True):
            if str(who) in seen:
                repeats += 1
                differs += seen[str(who)] != value
            seen.setdefault(str(who), value)
        if repeats >= 10 and differs <= 0.01 * repeats and len(set(values)) > 1:
            return owner, f"each {owner} has one value in the sample"
    return "context", "it varies within users and items"


def feature_of(sample: Sample, name: str) -> Guess | str:
    """The feature that a column seems to be, without its name and owner; text: why it makes none."""
    values = sample.columns[name]
    there = _present(values)
    distinct = len({str(value) for value in there})
    if distinct < 2:
        return "has one value only" if distinct else "is empty"
    lists = [value for value in there if isinstance(value, list)]
    if lists:
        return _of_lists(lists, None)
    texts = [value for value in there if isinstance(value, str)]
    if (numbers := numbers_of(values)) is not None:
        return _of_numbers(numbers, distinct, len(values) - len(there))
    separator = _separator(texts)
    if separator is not None:
        return _of_lists([[part.strip() for part in text.split(separator)] for text in texts], separator)
    if distinct > _MOST_CATEGORIES * len(texts) and distinct > 50:
        return f"{distinct:,} distinct values in {len(texts):,} rows, so there is little to learn from one"
    return Guess({"kind": "categorical"}, f"{distinct:,} distinct values")


def _of_numbers(numbers: np.ndarray, distinct: int, empty: int) -> Guess:
    whole = bool((numbers == np.round(numbers)).all())
    if whole and distinct <= _FEW_NUMBERS:
        return Guess({"kind": "categorical"}, f"{distinct} distinct integers; kind: numeric if size matters")
    value: dict[str, object] = {"kind": "numeric"}
    reason = f"numbers from {numbers.min():g} to {numbers.max():g}"
    if numbers.min() >= 0 and numbers.max() > 20 * max(float(np.median(numbers)), 1e-9):
        value["transform"] = ["log1p", "standardize"]
        reason += f"; a long tail (median {np.median(numbers):g})"
    if empty:
        value["missing"] = float(f"{np.median(numbers):.6g}")
        reason += f"; {empty:,} empty values count as the median"
    return Guess(value, reason)


def _separator(texts: list[str]) -> str | None:
    """The character that cuts texts into keys that occur again and again; None: they are no lists."""
    best, best_reuse = None, 0.0
    for mark in _SEPARATORS:
        parts = [part.strip() for text in texts for part in text.split(mark) if part.strip()]
        share = sum(mark in text for text in texts) / len(texts)
        if share < 0.1 or len(parts) < 1.1 * len(texts):
            continue
        reuse = len(parts) / len(set(parts))
        # Words of titles occur again too, so blanks need a small vocabulary.
        enough = 3.0 if mark != " " else max(10.0, len(texts) / 50)
        if reuse > max(enough, best_reuse):
            best, best_reuse = mark, reuse
    return best


def _of_lists(lists: list[list[str]], separator: str | None) -> Guess:
    lengths = [len(part) for part in lists]
    value: dict[str, object]
    some = [text for part in lists[:100] for text in part]
    if len(set(lengths)) == 1 and lengths[0] >= 8 and all(is_number(text) for text in some):
        value = {"kind": "vector", "dim": lengths[0]}
        reason = f"{lengths[0]} numbers in every row"
    else:
        keys = {text for part in lists for text in part}
        value = {"kind": "list"}
        if max(lengths) > 64:
            value["max_length"] = int(2 ** math.ceil(math.log2(max(lengths))))
        reason = f"up to {max(lengths)} keys a row, {len(keys):,} distinct"
    if separator is not None:
        value["separator"] = separator
    return Guess(value, reason)


def feature_name(column: str, taken: set[str]) -> str:
    """A free name of a feature for a column."""
    base = re.sub(r"[^a-z0-9]+", "_", column.partition(":")[0].lower()).strip("_")
    if not base or not base[0].isalpha():
        base = f"f_{base}".rstrip("_")
    name, number = base, 2
    while name in taken or name in RESERVED_NAMES:
        name, number = (f"{base}_of_row", 2) if name == base else (f"{base}_{number}", number + 1)
    return name


def key_of_side(
    side: Sample, keys: dict[str, set[str]], clean: Callable[[str], str] = str.strip
) -> tuple[str, str, str] | None:
    """(of, column, reason) of a side table: the column whose values are mostly users or items.

    Args:
      keys: user and item keys of the interactions' sample, by owner.
      clean: makes two spellings of one key equal.
    """
    best: tuple[float, str, str] | None = None
    for name in side.names:
        values = [clean(value) for value in side.columns[name] if isinstance(value, str)]
        if len(values) < 0.9 * side.num_rows or len(set(values)) < 0.9 * len(values):
            continue
        for owner, known in keys.items():
            # Either side may be the larger one, so the smaller one decides; names settle what overlaps.
            found = len(known & set(values)) / max(1, min(len(known), len(set(values))))
            found += 0.5 * (plain(name) in _NAMES[owner].split())
            if found > 0.3 and (best is None or found > best[0]):
                best = (found, owner, name)
    if best is None:
        return None
    share = len(keys[best[1]] & {clean(v) for v in side.columns[best[2]] if isinstance(v, str)})
    return best[1], best[2], f"{share:,} of {len(keys[best[1]]):,} {best[1]}s of the sample are in it"
