"""Keys to rows by fingerprint, against a dictionary."""

import numpy as np
import pytest
import tensorflow as tf

from configs.dataset_parts import TableInfo
from configs.errors import ExportError
from trainer.serving.keys import KeyTable

KEYS = [f"ключ {i}".encode() for i in range(300)] + [b"", b"line\nbreak", b"\xff not text", b"carriage\r"]


def table(keys, buckets=2**63 - 1, **other):
    info = TableInfo(ids="vocab", rows=len(keys) + 1, oov=len(keys), keys=len(keys))
    calls = []

    def fill(fingerprints):
        calls.append(fingerprints.seed)
        order = np.random.default_rng(0).permutation(len(keys))
        for ids in np.array_split(order, 3):
            fingerprints.add(ids, np.array([keys[i] for i in ids], object))

    return KeyTable(info, other.get("fill", fill), "user", buckets), calls


def test_every_key_has_its_row_and_others_the_last():
    made, calls = table(KEYS)
    order = np.random.default_rng(1).permutation(len(KEYS))
    asked = [KEYS[i] for i in order] + [b"nobody", KEYS[0], b"line"]
    assert made(tf.constant(asked)).numpy().tolist() == [*order, len(KEYS), 0, len(KEYS)]
    assert calls == [0]
    assert made(tf.zeros([0], tf.string)).shape == (0,)


def test_colliding_keys_take_another_seed():
    # 6 keys in 40 places collide under about a third of all seeds.
    for n in range(40):
        keys = [f"{n} {i}".encode() for i in range(6)]
        made, calls = table(keys, buckets=40)
        assert made(tf.constant(keys)).numpy().tolist() == list(range(6))
        if len(calls) > 1:
            return
    pytest.fail("no seed was ever refused")


def test_no_keys_at_all():
    assert table([])[0](tf.constant(["a", ""])).numpy().tolist() == [0, 0]


def test_a_catalog_that_is_not_whole_is_refused():
    def fill(fingerprints):
        fingerprints.add(np.array([1]), np.array([b"a"], object))

    with pytest.raises(ExportError, match="no key for 2 ids; run `lazytower prepare"):
        table([b"x", b"a", b"z"], fill=fill)


def test_a_key_in_there_twice_is_refused():
    with pytest.raises(ExportError, match="the catalog of users holds a key twice"):
        table([b"a", b"b", b"a"])


def test_it_is_saved_and_loaded(tmp_path):
    made, _ = table(KEYS)
    module = tf.Module()
    module.keys = made
    module.rows = tf.function(made, input_signature=[tf.TensorSpec([None], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    assert loaded.rows(tf.constant(KEYS)).numpy().tolist() == list(range(len(KEYS)))
