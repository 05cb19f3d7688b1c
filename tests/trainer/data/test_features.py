"""Features of every kind in batches and catalogs, against the raw rows."""

import itertools
import math
import types

import numpy as np
import psutil
import pytest

from configs.errors import DataError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.feature_dataset import _Prepared, write_features
from tests.support.feature_worlds import every_kind, raw_world
from tests.support.tiny_dataset import _Writer
from trainer.data.batches import TrainData
from trainer.data.catalog import Items, Users
from trainer.data.chain.catalogs import load_features
from trainer.data.features import VectorFiles, model_inputs
from trainer.data.lookups import FeatureLookup, catalog_lookups


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(config, raw data, dataset, what the raw data becomes)."""
    directory = str(tmp_path_factory.mktemp("features"))
    config, raw = parse_config(every_kind(directory), "features"), raw_world()
    dataset = write_features(config, raw)
    return config, raw, dataset, _Prepared(config, raw, _Writer(directory, 8, 2))


def number(info, value: float):
    """What a model reads of a number, in plain Python."""
    if math.isnan(value):
        return len(info.boundaries) + 1 if info.boundaries is not None else 0.0
    for step in info.steps:
        if step == "log1p":
            value = math.log1p(value)
        elif step != "standardize":
            value = min(max(value, step.clip[0]), step.clip[1])
    if info.boundaries is not None:
        return sum(value >= np.float32(limit) for limit in info.boundaries)
    return (value - info.mean) / info.stddev if "standardize" in info.steps else value


def padded(values, length, fill):
    return [*values, *[fill] * (length - len(values))]


def check(prepared, dataset, name, found, place, key_or_row):
    """Compares row `place` of the inputs with a raw value."""
    info, feature = dataset.features[name], prepared.config.features[name]
    if info.kind == "vector":
        np.testing.assert_array_equal(found[name][place], np.float32(prepared.raw[name][key_or_row]))
        return
    stored = prepared.stored(name, key_or_row)
    if info.kind == "list":
        assert found[name][place].tolist() == padded(stored[name], feature.max_length, -1), name
        if info.weighted:
            weights = padded(stored[f"{name}/weight"], feature.max_length, 0.0)
            assert found[f"{name}/weight"][place].tolist() == weights
    elif info.is_numeric:
        expected = number(info, stored[name])
        assert found[name][place] == pytest.approx(expected, rel=1e-5, abs=1e-6), (name, stored)
    else:
        assert found[name][place] == stored[name], name


def test_batches_hold_every_feature_of_their_rows(world):
    config, raw, dataset, prepared = world
    names = config.model.inputs
    lookups = catalog_lookups(dataset, names, Items.load(dataset))
    data = TrainData(dataset, 16, 1, True, names, lookups)
    seen = 0
    for batch in itertools.islice(data.batches(0).as_numpy_iterator(), data.steps_per_epoch):
        for place, time in enumerate(batch["timestamp"] - 1_600_000_000_000_000_000):
            row = raw.rows[time]
            for side in ("user", "item"):
                own = prepared.owners[side][row[side]]
                assert batch[side][place] == min(own, dataset.tables[side].oov)
            for name, info in dataset.features.items():
                source = row if info.lives == "records" else row[info.of]
                check(prepared, dataset, name, batch, place, source)
            seen += 1
    assert seen > 100
    assert batch["likes"].shape == batch["likes/weight"].shape == (16, 3)


def test_only_what_the_model_reads_is_read(world):
    config, _, dataset, _ = world
    items = Items.load(dataset)
    data = TrainData(
        dataset, 16, 1, True, ["hour", "look"], catalog_lookups(dataset, ["hour", "look"], items)
    )
    [batch] = itertools.islice(data.batches(0).as_numpy_iterator(), 1)
    assert {"hour", "look"} == set(batch) & set(config.features)


def test_items_hold_the_features_of_all_catalog_ids(world):
    config, _, dataset, prepared = world
    items = Items.load(dataset)
    assert items.rows == dataset.tables["item"].catalog_rows > dataset.tables["item"].rows
    names = config.model.item_tower.inputs
    inputs = items.inputs(names, np.arange(items.rows))
    lookup = FeatureLookup(items.infos, items.features)
    looked_up = {name: value.numpy() for name, value in lookup.of(np.arange(items.rows)).items()}
    for key, number_ in prepared.owners["item"].items():
        assert items.keys[number_] == key.encode()
        assert inputs["item"][number_] == min(number_, items.shared_row)
        for name in items.features:
            check(prepared, dataset, name, inputs, number_, key)
            check(prepared, dataset, name, looked_up, number_, key)
    # The row of unknown items: no tags, no vector, the mean.
    oov = items.shared_row
    assert (inputs["tags"][oov] == -1).all() and not inputs["look"][oov].any() and inputs["price"][oov] == 0
    assert b"fresh 1" in items.keys and not items.known[np.flatnonzero(items.keys == b"fresh 1")[0]]


def test_users_hold_their_features(world):
    _, raw, dataset, prepared = world
    users = Users(dataset, Items.load(dataset))
    found = 0
    for split in (None, "valid"):
        for block in users.blocks(split):
            half = block.take(np.arange(len(block))[::2])
            whole = type(block).join([half, half])
            inputs = model_inputs(dataset.features, whole.features)
            for place, key in enumerate(whole.keys):
                for name, info in dataset.features.items():
                    if info.of == "user":
                        check(prepared, dataset, name, inputs, place, key.decode())
                found += 1
    assert found > len(raw.sides[0])


def test_vectors_are_mapped_and_beyond_their_files_zero(world):
    _, _, dataset, prepared = world
    files = VectorFiles(dataset, dataset.features["look"])
    ids = np.array([len(files) + 5, 0, 2, 0])
    found = files[ids]
    assert not found[0].any() and found.dtype == np.float32
    np.testing.assert_array_equal(found[1], found[3])
    names = {number: key for key, number in prepared.owners["item"].items()}
    np.testing.assert_array_equal(found[2], np.float32(prepared.raw["look"][names[2]]))


def test_vectors_on_gs_that_exceed_the_memory_are_refused_before_they_are_read(world, monkeypatch):
    _, _, dataset, _ = world
    distant = dataset.model_copy(update={"path": "gs://no-such-bucket/dataset"})
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=100))
    with pytest.raises(DataError) as caught:
        VectorFiles(distant, dataset.features["look"])
    start = "gs://no-such-bucket/dataset: the vectors of feature look (0.0 GB) do not fit in the memory"
    assert str(caught.value).startswith(start) and "\n" not in str(caught.value)
    VectorFiles(dataset, dataset.features["look"])  # mapped, whatever the memory


def test_a_damaged_vector_file_is_refused(tmp_path):
    config = parse_config(every_kind(str(tmp_path)), "features")
    dataset = write_features(config, raw_world())
    path = dataset.file_path(dataset.features["look"].files[0])
    with open(path, "r+b") as file:
        file.write(b"\1")
    with pytest.raises(DataError, match="look-00000.f32: its checksum differs"):
        load_features(load_dataset(dataset.path), "item", ["look"], 3)
