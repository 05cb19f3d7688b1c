"""Export: what is in the SavedModel, and that only verified versions are published."""

import copy
import json
import os
import signal
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ExportError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.replays import golden_of
from tests.support.set_histories import other_items
from tests.support.tiny_run import USERS, any_python, tiny_export, tiny_model, tiny_run
from trainer.averages import make_average
from trainer.evaluation.trained import open_trained
from trainer.serving import export as export_module
from trainer.serving import golden as golden_module
from trainer.serving.client import recommend
from trainer.serving.export import Golden, export, replay_golden
from trainer.serving.replay import Difference, replay
from trainer.serving.requests import Request
from trainer.serving.versions import locked, versions

pytestmark = pytest.mark.any_python

USER_KEYS = [f"ü{i}".encode() for i in range(USERS)]


def _into(kind, directory, **export_options):
    """The tiny run's config with another export directory."""
    document = tiny_run(kind).config.model_dump(mode="json")
    document["export"] |= {"path": str(directory), **export_options}
    return parse_config(document, kind)


@pytest.fixture
def unverified(monkeypatch):
    """Skips the fresh process, for tests of something else."""
    monkeypatch.setattr(export_module, "replay_golden", lambda model, golden: None)


@pytest.fixture(scope="module")
def golden():
    """(an exported model, its golden examples)."""
    return tiny_model("towers"), golden_of(open_trained(tiny_run("towers").config))


def _averages(run, table, step, dim):
    """Averages of all rows from the checkpoint's raw records, in NumPy and float64."""
    folder = f"{run.config.output.path}/checkpoints/step-{step:09d}/tables/{table}"
    records = np.concatenate([np.load(f"{folder}/{name}") for name in sorted(os.listdir(folder))])
    records = records.astype(np.float64)
    weight, average, last = records[:, :dim], records[:, -1 - dim : -1], records[:, -1:]
    rule = make_average(run.config.polyak, step)
    start = rule.start_step
    if run.config.polyak.kind == "exponential":
        return weight + rule.decay ** (step - np.maximum(last, start)) * (average - weight)
    seen, since = np.maximum(last - start, 0), step - np.maximum(last, start)
    return (seen * average + since * weight) / np.maximum(seen + since, 1)


def _embeddings(run, model, side):
    """(keys, vectors) of a side's vocabulary, its out-of-vocabulary row last."""
    train = [getattr(row, side) for row in run.rows if row.split == "train"]
    least = getattr(run.config.dataset, f"{side}_ids").min_count
    frequent = [key for key in set(train) if train.count(key) >= least]
    keys = [*sorted(frequent, key=lambda key: (-train.count(key), key)), b"\x01unknown"]
    return keys, getattr(model, f"{side}_embedding")(tf.constant(keys))["embedding"].numpy()


@pytest.mark.any_python
def test_embeddings_are_the_averages_in_the_checkpoint():
    run, model = tiny_run("plain"), tiny_model("plain")
    for side in ("user", "item"):
        _, vectors = _embeddings(run, model, side)
        np.testing.assert_allclose(vectors, _averages(run, side, 20, 8), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Directory of versions with the export of `plain` that has none of the defaults."""
    directory = tmp_path_factory.mktemp("versions")
    for name in ("3", "12", "notes", "incomplete-99"):
        (directory / name).mkdir()
    assert versions(str(directory)) == [3, 12]
    with mock.patch.object(export_module, "replay_golden", lambda model, golden: None):
        export(_into("plain", directory, weights="raw", exclude_seen=False, max_k=5))
    return directory


@pytest.mark.any_python
def test_raw_weights_when_asked_for(other):
    run, model = tiny_run("plain"), tf.saved_model.load(str(other / "13"))
    _, vectors = _embeddings(run, model, "user")
    folder = f"{tiny_run('plain').config.output.path}/checkpoints/step-000000020/tables/user"
    np.testing.assert_array_equal(vectors, np.load(f"{folder}/00000.npy")[:, :8])
    assert np.abs(vectors - _averages(tiny_run("plain"), "user", 20, 8)).max() > 1e-3


@pytest.mark.any_python
def test_the_history_of_a_user_is_the_last_items_of_all_splits():
    """Averaged item rows, without their bias, summed over the last three items and divided by sqrt(3)."""
    run, model = tiny_run("history"), tiny_model("history")
    rows = _averages(run, "item", 20, 9)
    keys, _ = _embeddings(run, model, "item")
    vectors = model.user_embedding(tf.constant([*USER_KEYS, b"nobody"]))["embedding"].numpy()
    for user, vector in zip(USER_KEYS, vectors, strict=False):
        past = [row.item for row in run.rows if row.user == user and row.item in keys][-3:]
        expected = rows[[keys.index(item) for item in past], :8].sum(axis=0) / np.sqrt(len(past))
        np.testing.assert_allclose(vector, [*expected, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(vectors[-1], [0] * 8 + [1])


@pytest.mark.any_python
def test_the_history_of_a_user_without_an_order_is_a_sample_of_all_items():
    run, model = tiny_run("others"), tiny_model("others")
    users, items = _averages(run, "user", 20, 8), _averages(run, "history", 20, 8)
    keys, _ = _embeddings(run, model, "item")
    user_keys, vectors = _embeddings(run, model, "user")
    lengths = []
    for number, user in enumerate(user_keys[:-1]):
        mine = [keys.index(row.item) for row in run.rows if row.user == user and row.item in keys]
        past = other_items(mine, None, number, 3)
        expected = users[number] + items[past].sum(axis=0) / np.sqrt(len(past))
        np.testing.assert_allclose(vectors[number], [*expected, 1], rtol=1e-5, atol=1e-6)
        lengths.append(len(set(mine)))
    assert max(lengths) > 3


def test_towers_read_features_and_averaged_dense_weights():
    """The whole user tower once more, in NumPy."""
    run, model = tiny_run("towers"), tiny_model("towers")
    dataset, recommender = load_dataset(run.config.dataset.path), open_trained(run.config).recommender
    with np.load(f"{run.config.output.path}/checkpoints/step-000000020/dense.npz") as dense:
        shadows = {id(v): dense[f"average/{i:03d}"] for i, v in enumerate(recommender.dense_variables)}
    layers = [
        (shadows[id(layer.kernel)], shadows[id(layer.bias)]) for layer in recommender.model._user.layers
    ]
    tables = {name: _averages(run, name, 20, t.dim) for name, t in recommender.tables.items()}
    country_counts = [run.features["country"].values[r.user] for r in run.rows if r.split == "train"]
    countries = sorted(set(country_counts), key=lambda c: (-country_counts.count(c), c))
    item_keys, _ = _embeddings(run, model, "item")
    user_keys, vectors = _embeddings(run, model, "user")
    for number, (user, vector) in enumerate(zip(user_keys, vectors, strict=True)):
        past = [r.item for r in run.rows if r.user == user and r.item in item_keys[:-1]][-4:]
        rows = tables["item"][[item_keys.index(item) for item in past]]
        pooled = rows.mean(axis=0) if past else np.zeros(8)
        known = user in run.features["country"].values
        country = countries.index(run.features["country"].values[user]) if known else 3
        age = run.features["age"].values[user] if known else 0.0
        hidden = np.concatenate([tables["user"][number], pooled, tables["country"][country], [age]])
        hidden = np.maximum(hidden @ layers[0][0] + layers[0][1], 0) @ layers[1][0] + layers[1][1]
        expected = [*(hidden / np.linalg.norm(hidden)), 1]
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    assert dataset.tables["country"].oov == 3


@pytest.mark.any_python
def test_the_saved_model_holds_serving_variables_alone():
    reader = tf.train.load_checkpoint(f"{tiny_export('plain')}/variables/variables")
    shapes = sorted(tuple(shape) for shape in reader.get_variable_to_shape_map().values())
    dataset = load_dataset(tiny_run("plain").config.dataset.path)
    rows = dataset.table_rows("user")
    users, items = (
        max(dataset.tables[side].rows, dataset.tables[side].catalog_rows) for side in ("user", "item")
    )
    seen = {(row.user, row.item) for row in tiny_run("plain").rows}
    keys = [(dataset.users.rows,)] * 2 + [(dataset.items.rows,)] * 2  # fingerprints and their ids
    wanted = [(rows, 8), (users,), (users + 1,), (items, 8), (items,), *keys]
    shapes.remove(())  # the object graph
    in_catalog = [s for s in shapes if s not in wanted]
    assert sorted(shapes) == sorted(wanted + in_catalog)
    assert len(in_catalog) == 1 and 0 < in_catalog[0][0] <= len(seen)


@pytest.mark.slow
def test_loading_warns_of_nothing():
    program = "import sys, tensorflow as tf; tf.saved_model.load(sys.argv[1])"
    command = [sys.executable, "-c", program, tiny_export("towers")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr


@pytest.mark.any_python
def test_vectors_of_items_are_not_gathered_from_their_variable():
    """TensorFlow would copy all of them at every later recommend, which takes as long as scoring them."""
    model = tiny_model("plain")
    library = model.signatures["item_embedding"].graph.as_graph_def().library
    gathers = [node for function in library.function for node in function.node_def if "Gather" in node.op]
    floats = [
        node.op
        for node in gathers
        if tf.float32.as_datatype_enum in (node.attr["dtype"].type, node.attr["Tparams"].type)
    ]
    assert floats == ["GatherV2"]


def test_lazytower_json_says_what_was_exported():
    with open(f"{tiny_export('towers')}/assets.extra/lazytower.json", encoding="utf-8") as file:
        metadata = json.load(file)
    dataset = load_dataset(tiny_run("towers").config.dataset.path)
    assert metadata["dataset_fingerprint"] == dataset.fingerprint
    assert (metadata["name"], metadata["step"], metadata["weights"]) == ("tiny", 20, "average")
    assert metadata["version"] == 1 and metadata["max_k"] == 1000
    assert metadata["index"] == {"kind": "brute_force"}
    assert set(metadata["example_users"]) <= {key.decode() for key in USER_KEYS}


@pytest.mark.any_python
def test_without_seen_items_asking_to_leave_them_out_is_refused(other):
    model = tf.saved_model.load(str(other / "13"))
    assert model.signatures["serving_default"](user=tf.constant(USER_KEYS[:1]))["items"].shape == [1, 5]
    with pytest.raises(tf.errors.InvalidArgumentError, match="export.exclude_seen"):
        model.recommend(tf.constant(USER_KEYS[:1]), exclude_seen=tf.constant(True))


@pytest.mark.parametrize("kind", ["towers", *any_python("plain", "history", "others", "hash")])
def test_golden_examples_include_unknown_keys_and_all_lists(kind):
    examples = golden_of(open_trained(tiny_run(kind).config))
    assert examples["users"][-1].encode("latin-1") == golden_module.UNKNOWN_KEY
    assert examples["items"][-1].encode("latin-1") == golden_module.UNKNOWN_KEY
    replay(tiny_model(kind).signatures, examples)


def _add(values, amount=0.01):
    values[0] += amount


@pytest.mark.parametrize(
    "tamper",
    [
        lambda g: _add(g["user_vectors"][3]),
        lambda g: _add(g["item_vectors"][-1]),
        lambda g: g["scores"][2].__setitem__(2, g["scores"][2][2] + 0.01),
        lambda g: g["users"].reverse(),
        lambda g: g["recommend"][0]["answers"][0]["extended"].pop(0),
        lambda g: g["recommend"][1]["answers"][2]["banned"].append(
            g["recommend"][1]["answers"][2]["extended"][0][0]
        ),
        lambda g: [answer.__setitem__("exclude", []) for answer in g["recommend"][2]["answers"][:-1]],
    ],
)
def test_the_replay_notices_every_difference(golden, tamper):
    model, examples = golden
    replay(model.signatures, examples)
    examples = copy.deepcopy(examples)
    tamper(examples)
    with pytest.raises(Difference):
        replay(model.signatures, examples)


@pytest.mark.any_python
def test_a_model_that_answers_otherwise_is_not_published(tmp_path, monkeypatch):
    config, honest = _into("plain", tmp_path), golden_module.golden_examples
    (tmp_path / "7").mkdir()

    def dishonest(trained, listed):
        examples = honest(trained, listed)
        _add(examples["user_vectors"][0])
        return examples

    monkeypatch.setattr(golden_module, "golden_examples", dishonest)
    with pytest.raises(
        ExportError, match="answers differently from the trained model: user_embedding: .* at \\(0, 0\\)"
    ):
        export(config)
    assert sorted(os.listdir(tmp_path)) == [".lock", "7"]


def test_the_fresh_process_refuses_a_broken_model(tmp_path):
    with pytest.raises(ExportError, match="answers differently from the trained model: .*nothing"):
        replay_golden(str(tmp_path / "nothing"), Golden(dict))


def test_the_fresh_process_ends_if_there_are_no_examples(tmp_path, monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    def examples():
        raise MemoryError("no room for the examples")

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    with pytest.raises(MemoryError, match="no room"):
        replay_golden(str(tmp_path), Golden(examples))
    assert [process.poll() for process in started] == [-signal.SIGKILL]


@pytest.mark.any_python
def test_versions_count_up_from_the_largest(other):
    # What a killed export left is gone.
    assert sorted(os.listdir(other)) == [".lock", "12", "13", "3", "notes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a[1]\\b", "w*t? x %20#"])
def test_a_path_that_tensorflow_may_take_for_a_pattern(tmp_path, name, caplog):
    """It globs where it restores from. Export verifies, and recommend asks, through a link where it must."""
    path = export(_into("plain", tmp_path / name))
    assert path == str(tmp_path / name / "1")
    if name != "w*t? x %20#":
        assert "need it copied to another path" in caplog.text
        with pytest.raises((OSError, tf.errors.OpError)):
            tf.saved_model.load(path)
    request = [Request("ü1")]
    (answer,) = recommend(path, request, 3, False)
    assert [answer] == list(recommend(tiny_export("plain"), request, 3, False)) and len(answer["items"]) == 3


_KILLED = """
import os, signal, sys
from configs.load import load_config
from trainer.serving import export
export.replay_golden = lambda model, golden: os.kill(os.getpid(), signal.SIGKILL)
export.export(load_config(sys.argv[1], ["export.path=" + sys.argv[2]]))
"""


@pytest.mark.slow
def test_a_killed_export_leaves_nothing_that_would_be_served(tmp_path, unverified):
    config = os.path.join(tiny_run("plain").config.output.path, "config.yaml")
    done = subprocess.run([sys.executable, "-c", _KILLED, config, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert os.path.exists(tmp_path / "incomplete-1" / "model" / "saved_model.pb")
    assert versions(str(tmp_path)) == []
    assert export(_into("plain", tmp_path)) == str(tmp_path / "1")
    assert sorted(os.listdir(tmp_path)) == [".lock", "1"]


def test_two_exports_into_one_directory_do_not_meet(tmp_path):
    with locked(str(tmp_path)):
        with pytest.raises(ExportError, match="another export into it is running"):
            export(_into("plain", tmp_path))


def test_mistakes_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="cannot be written"):
        export(_into("plain", tmp_path / "file"))


@pytest.mark.any_python
def test_weights_that_are_not_finite_are_refused(tmp_path, unverified, monkeypatch):
    from trainer.embeddings.engines.stored import StoredTable

    read = StoredTable.read_records
    monkeypatch.setattr(StoredTable, "read_records", lambda self, ids: read(self, ids) * np.float32(np.nan))
    with pytest.raises(ExportError, match="not finite"):
        export(_into("plain", tmp_path))
    assert versions(str(tmp_path)) == []
