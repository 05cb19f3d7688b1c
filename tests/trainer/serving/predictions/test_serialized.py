"""Serialized Examples as inputs: what is there, what is left out, and what fits no input."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.serving.predictions.serialized import parse_examples

SPECS = [
    (tf.TensorSpec([None], tf.string, "site"), tf.constant([""])),
    (tf.TensorSpec([None], tf.float32, "hour"), tf.constant([np.nan], tf.float32)),
    (tf.TensorSpec([None, None], tf.string, "tags"), tf.zeros([1, 0], tf.string)),
    (tf.TensorSpec([None, None], tf.float32, "weight_tags"), tf.zeros([1, 0])),
    (tf.TensorSpec([None, 2], tf.float32, "taste"), tf.constant([[np.nan] * 2], tf.float32)),
]


def parse(*examples: dict) -> dict[str, np.ndarray]:
    """Inputs of Examples with these lists."""
    serialized = []
    for values in examples:
        example = tf.train.Example()
        for name, found in values.items():
            feature = example.features.feature[name]
            if name in ("site", "tags"):
                feature.bytes_list.value.extend(one.encode() for one in found)
            elif name == "count":
                feature.int64_list.value.extend(found)
            else:
                feature.float_list.value.extend(found)
        serialized.append(example.SerializeToString())
    function = tf.function(lambda given: parse_examples(given, SPECS))
    return {name: value.numpy() for name, value in function(tf.constant(serialized, tf.string)).items()}


def test_values_that_are_there():
    found = parse(
        {"site": ["ü"], "hour": [3], "tags": ["a", "b"], "weight_tags": [2, 0.5], "taste": [1, 2]},
        {"tags": ["c", "d", "e"], "count": [7]},
    )
    assert found["site"].tolist() == ["ü".encode(), b""]
    np.testing.assert_array_equal(found["hour"], [3, np.nan])
    assert found["tags"].tolist() == [[b"a", b"b", b""], [b"c", b"d", b"e"]]
    assert found["weight_tags"].tolist() == [[2, 0.5, 0], [1, 1, 1]]
    np.testing.assert_array_equal(found["taste"], [[1, 2], [np.nan, np.nan]])


def test_what_is_left_out_says_nothing():
    nothing = parse({}, {"site": [], "hour": [], "tags": [], "weight_tags": [], "taste": []})
    assert nothing["site"].tolist() == [b"", b""] and np.isnan(nothing["hour"]).all()
    assert nothing["tags"].shape == nothing["weight_tags"].shape == (2, 0)
    assert nothing["taste"].shape == (2, 2) and np.isnan(nothing["taste"]).all()
    assert {len(value) for value in parse().values()} == {0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hour": [1, 2]}, "hour: an Example has several values"),
        ({"site": ["a", "b"]}, "site: an Example has several values"),
        ({"taste": [1]}, "taste: an Example needs 2 values"),
        ({"tags": ["a", "b"], "weight_tags": [1]}, "weight_tags: an Example needs a weight for each key"),
    ],
)
def test_what_fits_no_input_is_invalid(values, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        parse({}, values)


def test_bytes_that_are_no_example_are_invalid():
    with pytest.raises(tf.errors.InvalidArgumentError):
        parse_examples(tf.constant([b"no example"]), SPECS)
