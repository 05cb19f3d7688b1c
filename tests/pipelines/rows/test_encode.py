"""Blocks and frames against TensorFlow's own."""

import io

import numpy as np
import pytest
import tensorflow as tf

from pipelines.rows.encode import RecordFile, example, record, varints


@pytest.mark.parametrize("largest", [0, 127, 128, 2**14, 2**28, 2**31, 2**32, 2**62])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int8])
def test_example_is_what_tensorflow_writes(largest, dtype):
    largest = min(largest, np.iinfo(dtype).max)
    rng = np.random.default_rng(0)
    numbers = np.r_[0, largest, rng.integers(0, largest, 50, endpoint=True)].astype(dtype)
    floats = rng.normal(size=52).astype(np.float32)
    keys = [b"", b"k" * 200, "é".encode()]
    features = {
        "n": tf.train.Feature(int64_list=tf.train.Int64List(value=numbers.tolist())),
        "f": tf.train.Feature(float_list=tf.train.FloatList(value=floats.tolist())),
        "key": tf.train.Feature(bytes_list=tf.train.BytesList(value=keys)),
        "none": tf.train.Feature(int64_list=tf.train.Int64List(value=[])),
    }
    expected = tf.train.Example(features=tf.train.Features(feature=features))
    data = example({"n": numbers, "f": floats, "key": keys, "none": numbers[:0]})
    assert tf.train.Example.FromString(data) == expected
    assert len(data) <= expected.ByteSize() + 8


@pytest.mark.parametrize(
    "keys", [[b""], [b"", b"a", b""], [b"k" * 127, b"y"], [b"k" * 128, b""], [b"i%d" % n for n in range(999)]]
)
def test_keys_of_an_example(keys):
    found = tf.train.Example.FromString(example({"key": keys})).features.feature["key"]
    assert list(found.bytes_list.value) == keys


def test_varints_of_nothing():
    assert varints(np.zeros(0, np.int64)) == b""


def test_frame_is_a_tfrecord(tmp_path):
    path = str(tmp_path / "x")
    with tf.io.TFRecordWriter(path) as writer:
        writer.write(b"some data")
    with open(path, "rb") as file:
        assert record(b"some data") == file.read()


def test_record_file_holds_no_time():
    found = []
    for _ in range(2):
        file = io.BytesIO()
        records = RecordFile(file, 4)
        records.write_block({"n": np.arange(4)}, 4)
        info = records.close()
        assert info["rows"] == 4 and info["bytes"] == len(file.getvalue())
        found.append(file.getvalue())
    assert found[0] == found[1]
    assert found[0][4:8] == bytes(4)
