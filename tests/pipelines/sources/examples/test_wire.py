"""Examples in every form that protocol buffers allow are read as TensorFlow reads them."""

import random

import numpy as np
import pytest
import tensorflow as tf

from pipelines.sources.examples.columns import column_of
from pipelines.sources.examples.records import Records
from pipelines.sources.examples.wire import NotAnExample, find_features
from tests.support.tf_examples import example

pytestmark = pytest.mark.any_python

KINDS = {"text": "keys", "floats": "numbers", "integers": "keys", "absent": "keys"}


def block_of(messages: list[bytes]) -> Records:
    ends = np.cumsum([len(message) for message in messages], dtype=np.int64)
    return Records(b"".join(messages), np.r_[0, ends[:-1]], ends, 1)


def lists(messages: list[bytes]) -> list[dict]:
    """Values by name and record."""
    block = find_features(block_of(messages), list(KINDS))
    found = {name: column_of(block.data, block.features[name], kind)[0] for name, kind in KINDS.items()}
    return [{name: column[i].as_py() for name, column in found.items()} for i in range(len(messages))]


def expected(message: bytes) -> dict:
    features = tf.train.Example.FromString(message).features.feature
    values = {name: features[name] if name in features else tf.train.Feature() for name in KINDS}
    return {
        n: list(getattr(v, v.WhichOneof("kind")).value) if v.WhichOneof("kind") else []
        for n, v in values.items()
    }


def random_row(rng: random.Random) -> dict:
    row = {
        "text": [
            rng.choice([b"", b"a", b"\xff", b"t" * 200, b"w" * 20_000]) for _ in range(rng.randrange(4))
        ],
        "floats": [float(np.float32(rng.uniform(-9, 9))) for _ in range(rng.randrange(4))],
        "integers": [
            rng.choice([0, 1, -1, 127, 128, 300, 2**31, 2**63 - 1, -(2**63)]) for _ in range(rng.randrange(5))
        ],
        "more": [1, 2, 3],
        "texts": "a name as long as another's beginning",
    }
    return {name: value for name, value in row.items() if rng.random() < 0.9}


def test_what_serializers_write_is_understood_in_step():
    rng = random.Random(3)
    messages = [example(random_row(rng)).SerializeToString() for _ in range(300)]
    assert lists(messages) == [expected(message) for message in messages]


def field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def entry(name: str, feature: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, feature))


ONE = entry("text", field(1, field(1, b"a")))
TWO = entry("integers", field(3, field(1, b"\x05")))
UNUSUAL = {
    "features_twice": field(1, ONE) + field(1, TWO),
    "unknown_field_of_example": field(1, ONE) + field(9, b"xyz"),
    "unknown_field_of_features": field(1, ONE + field(7, b"x") + TWO),
    "unknown_field_of_feature": field(1, entry("text", field(8, b"x") + field(1, field(1, b"a")))),
    "value_before_key": field(1, field(1, field(2, field(1, field(1, b"a"))) + field(1, b"text"))),
    "name_twice": field(1, ONE + entry("text", field(1, field(1, b"b")))),
    "two_lists_in_one": field(1, entry("text", field(3, b"") + field(1, field(1, b"b")))),
    "numbers_one_by_one": field(1, entry("integers", field(3, b"\x08\x05\x08\xac\x02"))),
    "numbers_in_two_parts": field(1, entry("integers", field(3, field(1, b"\x05") + b"\x08\x06"))),
    "floats_one_by_one": field(1, entry("floats", field(2, b"\x0d\0\0\x80\x3f\x0d\0\0\0\x40"))),
    "long_varints": field(1, entry("integers", field(3, field(1, b"\x85\x80\x80\0")))),
    "long_lengths": b"\x0a\x85\x80\x80\x80\0" + entry("", b"")[:5],
    "unknown_field_of_list": field(1, entry("text", field(1, field(1, b"a") + field(2, b"b")))),
    "empty": b"",
    "no_value": field(1, field(1, field(1, b"text"))),
    "empty_entry": field(1, field(1, b"")),
    "empty_feature": field(1, entry("text", b"")),
    "empty_lists": field(1, entry("integers", field(3, b"")) + entry("floats", field(2, field(1, b"")))),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_other_forms_mean_what_protocol_buffers_say(name):
    usual = example({"text": ["x"], "integers": [1, 2]}).SerializeToString()
    messages = [usual, UNUSUAL[name], usual]
    try:
        wanted = [expected(message) for message in messages]
    except Exception:
        with pytest.raises(NotAnExample) as caught:
            lists(messages)
        assert caught.value.record == 1
        return
    assert lists(messages) == wanted


def test_random_damage_is_read_as_protocol_buffers_do_or_refused():
    rng, refused = random.Random(5), 0
    for _ in range(400):
        message = bytearray(example(random_row(rng) | {"text": ["a", "bc"]}).SerializeToString()[:300])
        for _ in range(rng.randrange(1, 4)):
            message[rng.randrange(len(message))] = rng.choice([0, 8, 10, 18, 26, 127, 128, 255])
        try:
            found = lists([bytes(message)])
        except NotAnExample:
            refused += 1
            continue
        try:
            wanted = expected(bytes(message))
        except Exception:
            continue  # a name that is not wanted is no UTF-8 text
        np.testing.assert_equal(found, [wanted])
    assert 50 < refused < 390


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"not an example", "is not a tf.train.Example"),
        (field(9, b"x"), "is not a tf.train.Example: it has no features"),
        (
            tf.train.SequenceExample(
                feature_lists=tf.train.FeatureLists(feature_list={"a": tf.train.FeatureList()})
            ).SerializeToString(),
            "is a tf.train.SequenceExample; write one",
        ),
    ],
)
def test_other_messages_are_refused(message, what):
    with pytest.raises(NotAnExample) as caught:
        lists([b"", message])
    assert caught.value.record == 1 and caught.value.what.startswith(what)
