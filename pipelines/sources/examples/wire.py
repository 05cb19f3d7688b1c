"""tf.train.Example out of the bytes of protocol buffers, for all records of a block at once.

`find_features` goes through the records in step: each operation handles the next field of every record.
It understands what serializers write: each field once, lists of numbers packed. Whatever else protocol
buffers allow (split, repeated or unknown fields, numbers one by one) is left to their own parser: it writes
such a record anew in the usual form, or says that it is no Example.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from pipelines.sources.examples.records import Records

BYTES, FLOATS, INTEGERS = 1, 2, 3
"""Field numbers of a Feature's lists, which tell the type of its values."""
_LENGTHS_TAG = 2  # wire type of fields with a length
_PADDING = 16  # bytes that may be looked at behind the end
_LONGEST_VARINT = 10


class NotAnExample(Exception):
    """`record`: index of the record in its block. `what`: what it is instead."""

    def __init__(self, record: int, what: str):
        super().__init__(record, what)
        self.record, self.what = record, what


class Spans(NamedTuple):
    """Stretches of bytes: int64 [n] each."""

    starts: np.ndarray
    ends: np.ndarray

    def take(self, where: np.ndarray) -> "Spans":
        """Those at the given places, or where a mask is true."""
        return Spans(self.starts[where], self.ends[where])


class Feature(NamedTuple):
    """One feature of all records."""

    kinds: np.ndarray
    """int8 [n]: BYTES, FLOATS or INTEGERS; 0: the record has no such feature, or one without a list."""
    lists: Spans
    """The list's bytes, by record."""
    present: bool
    """Whether any record names it."""


class Block(NamedTuple):
    """Records and where their features are."""

    data: np.ndarray
    """uint8, with a few zeros at its end."""
    features: dict[str, Feature]
    others: tuple[str, ...]
    """Names of all features of the first record."""


def find_features(records: Records, names: Sequence[str]) -> Block:
    """Where the records have the named features.

    Raises:
      NotAnExample: a record is none.
    """
    data = np.frombuffer(records.data + bytes(_PADDING), np.uint8)
    spans = Spans(records.starts, records.ends)
    unusual, features, others = _find(data, spans, names)
    if unusual.any():
        data, spans = _rewritten(records, np.flatnonzero(unusual))
        unusual, features, others = _find(data, spans, names)
        assert not unusual.any(), "a record in the usual form is not understood"
    return Block(data, features, others)


def _find(
    data: np.ndarray, spans: Spans, names: Sequence[str]
) -> tuple[np.ndarray, dict[str, Feature], tuple[str, ...]]:
    """As find_features; the first of the results is bool [n], where a record is of an unusual form."""
    unusual = np.zeros(len(spans.starts), bool)
    filled = spans.ends > spans.starts
    whole = np.flatnonzero(filled)
    features, good = _only_field(data, spans.take(filled), 1)
    unusual[whole[~good]] = True
    owners, entries = _fields_in_step(data, features.take(good), whole[good], unusual)
    keys, values = _key_and_value(data, entries, owners, unusual)
    found = {name: _feature(data, name.encode(), owners, keys, values, unusual) for name in names}
    first = np.flatnonzero(owners == 0)[:_SHOWN_NAMES]
    others = (data[keys.starts[i] : keys.ends[i]].tobytes().decode("utf-8", "replace") for i in first)
    return unusual, found, tuple(others)


_SHOWN_NAMES = 1000


def _varints(data: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of up to four bytes that begin at `at`, and the places behind them; longer ones become -1."""
    byte = data[at].astype(np.int64)
    value, place = byte & 0x7F, at + 1
    more = np.flatnonzero(byte & 0x80)
    for shift in (7, 14, 21):
        if not len(more):
            return value, place
        byte = data[place[more]].astype(np.int64)
        value[more] |= (byte & 0x7F) << shift
        place[more] += 1
        more = more[(byte & 0x80) != 0]
    for_last = data[np.minimum(place[more], len(data) - 1)].astype(np.int64)
    value[more] |= for_last << 28
    place[more] += 1
    value[more[for_last >= 0x08]] = -1  # 2 GiB or more, or yet another byte
    return value, place


def _field(data: np.ndarray, at: np.ndarray, ends: np.ndarray, number: int) -> tuple[Spans, np.ndarray]:
    """The field that begins at `at`, and bool [n] of whether it is that field, with a length, and ends in
    time."""
    length, start = _varints(data, at + 1)
    good = (data[at] == (number << 3 | _LENGTHS_TAG)) & (length >= 0) & (start + length <= ends)
    return Spans(start, np.where(good, start + length, start)), good


def _only_field(data: np.ndarray, spans: Spans, number: int) -> tuple[Spans, np.ndarray]:
    """The field of which messages consist, and bool [n] of whether they consist of that alone."""
    field, good = _field(data, spans.starts, spans.ends, number)
    return field, good & (field.ends == spans.ends)


def _fields_in_step(
    data: np.ndarray, spans: Spans, owners: np.ndarray, unusual: np.ndarray
) -> tuple[np.ndarray, Spans]:
    """All fields number 1 of messages that consist of such: their owners (int64 [m]) and spans, in order.

    Messages with other fields make their owner unusual.
    """
    found: list[tuple[np.ndarray, Spans]] = [(owners[:0], spans.take(np.zeros(0, np.int64)))]
    active = spans.starts < spans.ends
    at, ends, owners = spans.starts[active], spans.ends[active], owners[active]
    while len(at):
        field, good = _field(data, at, ends, 1)
        unusual[owners[~good]] = True
        found.append((owners[good], field.take(good)))
        active = good & (field.ends < ends)
        at, ends, owners = field.ends[active], ends[active], owners[active]
    every = np.concatenate([part for part, _ in found])
    order = np.argsort(every, kind="stable")
    parts = (np.concatenate([part[i] for _, part in found])[order] for i in (0, 1))
    return every[order], Spans(*parts)


def _key_and_value(
    data: np.ndarray, entries: Spans, owners: np.ndarray, unusual: np.ndarray
) -> tuple[Spans, Spans]:
    """Keys and values of entries of the map; an empty value if there is none."""
    keys, good = _field(data, entries.starts, entries.ends, 1)
    at_end = keys.ends >= entries.ends
    values, has_value = _field(data, np.minimum(keys.ends, len(data) - _PADDING), entries.ends, 2)
    whole = at_end | (has_value & (values.ends == entries.ends))
    unusual[owners[~(good & whole)]] = True
    starts, ends = np.where(at_end, keys.ends, values.starts), np.where(at_end, keys.ends, values.ends)
    return keys, Spans(starts, ends)


def _feature(
    data: np.ndarray, name: bytes, owners: np.ndarray, keys: Spans, values: Spans, unusual: np.ndarray
) -> Feature:
    chosen = np.flatnonzero(keys.ends - keys.starts == len(name))
    for place in reversed(range(len(name))):  # names often differ at their end, seldom at the beginning
        chosen = chosen[data[keys.starts[chosen] + place] == name[place]]
    named = bool(len(chosen))
    owners, values = owners[chosen], values.take(chosen)
    unusual[owners[1:][owners[1:] == owners[:-1]]] = True  # twice
    kinds = np.zeros(len(unusual), np.int8)
    starts, ends = np.zeros(len(unusual), np.int64), np.zeros(len(unusual), np.int64)
    filled = values.starts < values.ends
    owners, values = owners[filled], values.take(filled)
    tags = data[values.starts]
    lists, good = _only_field_of_any(data, values, tags)
    unusual[owners[~good]] = True
    kinds[owners], starts[owners], ends[owners] = tags >> 3, lists.starts, lists.ends
    _check_packed(data, kinds, Spans(starts, ends), unusual)
    return Feature(kinds, Spans(starts, ends), named)


def _only_field_of_any(data: np.ndarray, spans: Spans, tags: np.ndarray) -> tuple[Spans, np.ndarray]:
    known = np.isin(tags, [number << 3 | _LENGTHS_TAG for number in (BYTES, FLOATS, INTEGERS)])
    length, start = _varints(data, spans.starts + 1)
    good = known & (length >= 0) & (start + length == spans.ends)
    return Spans(start, spans.ends), good


def _check_packed(data: np.ndarray, kinds: np.ndarray, lists: Spans, unusual: np.ndarray) -> None:
    """Makes records unusual whose numbers are not packed, or whose bytes are not a sequence of values."""
    where = np.flatnonzero((kinds >= FLOATS) & (lists.starts < lists.ends) & ~unusual)
    packed, good = _only_field(data, lists.take(where), 1)
    size = packed.ends - packed.starts
    floats = kinds[where] == FLOATS
    last = data[np.maximum(packed.ends - 1, 0)]
    good &= np.where(floats, size % 4 == 0, (last < 0x80) | (size == 0))
    unusual[where[~good]] = True
    where = np.flatnonzero((kinds == INTEGERS) & (lists.starts < lists.ends) & ~unusual)
    packed, _ = _only_field(data, lists.take(where), 1)
    raw = _gathered(data, packed)
    ends = np.flatnonzero(raw < 0x80)
    long = np.diff(ends, prepend=-1) > _LONGEST_VARINT
    if long.any():
        bounds = np.cumsum(packed.ends - packed.starts)
        unusual[where[np.searchsorted(bounds, ends[long], side="right")]] = True
    where = np.flatnonzero((kinds == BYTES) & ~unusual)
    _fields_in_step(data, lists.take(where), where, unusual)


def bytes_of(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values of bytes lists.

    Returns:
      counts: int64 [n] number of values of each list.
      offsets: int64 [m + 1] where each value begins in `content`.
      content: uint8.
    """
    number = len(lists.starts)
    owners, values = _fields_in_step(data, lists, np.arange(number), np.zeros(number, bool))
    counts = np.bincount(owners, minlength=number).astype(np.int64)
    offsets = np.r_[0, np.cumsum(values.ends - values.starts)]
    return counts, offsets, _gathered(data, values)


def floats_of(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Number of values of each float list (int64 [n]), and the values (float32)."""
    packed = _packed(data, lists)
    values = _gathered(data, packed).view("<f4")
    return (packed.ends - packed.starts) // 4, values


def integers_of(data: np.ndarray, lists: Spans) -> tuple[np.ndarray, np.ndarray]:
    """Number of values of each int64 list (int64 [n]), and the values (int64)."""
    packed = _packed(data, lists)
    raw = _gathered(data, packed)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    sizes = ends - starts + 1
    values = (raw[starts] & 0x7F).astype(np.uint64)
    for place in range(1, int(sizes.max(initial=1))):
        longer = np.flatnonzero(sizes > place)
        part = (raw[starts[longer] + place] & 0x7F).astype(np.uint64)
        values[longer] |= part << np.uint64(7 * place)
    bounds = np.r_[0, np.cumsum(packed.ends - packed.starts)]
    counts = np.diff(np.searchsorted(ends, bounds))
    return counts.astype(np.int64), values.view(np.int64)


def _packed(data: np.ndarray, lists: Spans) -> Spans:
    """Contents of lists of numbers, which are one packed field or nothing."""
    packed, good = _only_field(data, lists, 1)
    filled = good & (lists.starts < lists.ends)
    return Spans(np.where(filled, packed.starts, lists.starts), np.where(filled, packed.ends, lists.starts))


def _gathered(data: np.ndarray, spans: Spans) -> np.ndarray:
    """The bytes of stretches, one after another."""
    sizes = spans.ends - spans.starts
    before = np.cumsum(sizes) - sizes
    return data[np.repeat(spans.starts - before, sizes) + np.arange(int(sizes.sum()))]


def _rewritten(records: Records, unusual: np.ndarray) -> tuple[np.ndarray, Spans]:
    """The records, those at `unusual` in the usual form."""
    pieces = [records.data[a:b] for a, b in zip(records.starts, records.ends, strict=True)]
    for i in unusual:
        pieces[i] = _usual_form(int(i), pieces[i])
    ends = np.cumsum([len(piece) for piece in pieces])
    data = np.frombuffer(b"".join([*pieces, bytes(_PADDING)]), np.uint8)
    return data, Spans(np.r_[0, ends[:-1]], ends)


def _usual_form(number: int, data: bytes) -> bytes:
    example, sequence = _message_types()
    try:
        if sequence.FromString(data).HasField("feature_lists"):
            raise NotAnExample(number, "is a tf.train.SequenceExample; write one tf.train.Example a row")
        found = example.FromString(data)
    except DecodeError:
        raise NotAnExample(number, "is not a tf.train.Example; check source.kind") from None
    if not found.HasField("features"):
        raise NotAnExample(number, "is not a tf.train.Example: it has no features; check source.kind")
    found.DiscardUnknownFields()
    rest: bytes = found.SerializeToString()
    return rest


@functools.cache
def _message_types() -> tuple[Any, Any]:
    """tf.train.Example and SequenceExample, without TensorFlow."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="lazytower/example.proto", package="lazytower", syntax="proto3"
    )

    def message(name: str, *fields: tuple[str, int, Any, str]) -> Any:
        found = file.message_type.add(name=name)
        for field, number, type_, of in fields:
            label = (
                kind.LABEL_REPEATED if name.endswith("List") or of.endswith("Entry") else kind.LABEL_OPTIONAL
            )
            type_name = f".lazytower.{of}" if of else None
            found.field.add(name=field, number=number, label=label, type=type_, type_name=type_name)
        return found

    message("BytesList", ("value", 1, kind.TYPE_BYTES, ""))
    message("FloatList", ("value", 1, kind.TYPE_FLOAT, ""))
    message("Int64List", ("value", 1, kind.TYPE_INT64, ""))
    lists = [("bytes_list", 1, "BytesList"), ("float_list", 2, "FloatList"), ("int64_list", 3, "Int64List")]
    feature = message("Feature", *((name, i, kind.TYPE_MESSAGE, of) for name, i, of in lists))
    feature.oneof_decl.add(name="kind")
    for field in feature.field:
        field.oneof_index = 0
    features = message("Features", ("feature", 1, kind.TYPE_MESSAGE, "Features.FeatureEntry"))
    entry = features.nested_type.add(
        name="FeatureEntry", options=descriptor_pb2.MessageOptions(map_entry=True)
    )
    entry.field.add(name="key", number=1, label=kind.LABEL_OPTIONAL, type=kind.TYPE_STRING)
    entry.field.add(
        name="value",
        number=2,
        label=kind.LABEL_OPTIONAL,
        type=kind.TYPE_MESSAGE,
        type_name=".lazytower.Feature",
    )
    message("Example", ("features", 1, kind.TYPE_MESSAGE, "Features"))
    message("Rest")
    both = [("context", 1, "Features"), ("feature_lists", 2, "Rest")]
    message("SequenceExample", *((name, i, kind.TYPE_MESSAGE, of) for name, i, of in both))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Example", "SequenceExample")
    types = [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"lazytower.{n}")) for n in names]
    return types[0], types[1]
