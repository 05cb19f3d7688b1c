"""An exported model with features of every kind: requests from Python and the shell, `where` on lists, users
and items without train rows, and golden examples that notice a wrong feature."""

import json

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ExportError
from configs.load import parse_config
from configs.manifest import load_dataset
from tests.support.feature_dataset import write_features
from tests.support.feature_worlds import DIM, every_kind, raw_world
from tests.support.replays import export_here
from trainer.commands.recommend import add_arguments, run
from trainer.serving.client import read_metadata

pytestmark = [pytest.mark.any_python, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(config, raw data, dataset, directory of the version, the loaded model)."""
    from trainer.training.run import train

    directory = str(tmp_path_factory.mktemp("served"))
    config, world = parse_config(every_kind(directory), "served"), raw_world()
    write_features(config, world)
    train(config)
    path = export_here(config)
    return config, world, load_dataset(config.dataset.path), path, tf.saved_model.load(path)


def embed(model, users, **inputs):
    given = {name: tf.constant(value) for name, value in inputs.items()}
    return model.user_embedding(tf.constant(users), **given)["embedding"].numpy()


def test_every_feature_moves_the_answer(served):
    config, _, _, _, model = served
    plain = embed(model, ["ü5"])
    said = {
        "country": ["日本"],
        "plan": ["pro"],
        "likes": [["red", "日本"]],
        "age": np.float32([77]),
        "taste": np.ones((1, DIM), np.float32),
        "device": ["tv"],
        "channel": ["späte"],
        "query": [["best", "cheap"]],
        "hour": np.float32([23]),
        "budget": np.float32([50]),
        "level": np.float32([3]),
    }
    other = {"country": ["FR"], "likes": [["grün"]]}
    for name, value in said.items():
        changed = embed(model, ["ü5"], **{name: value})
        if np.array_equal(changed, plain):  # what the user is known for
            changed = embed(model, ["ü5"], **{name: other[name]})
        assert np.abs(changed - plain).max() > 1e-7, name
    weighted = embed(model, ["ü5"], likes=[["red", "grün"]], weight_likes=np.float32([[3, 0]]))
    np.testing.assert_allclose(weighted, embed(model, ["ü5"], likes=[["red"]]), atol=1e-6)


def test_what_says_nothing_changes_nothing(served):
    _, _, _, _, model = served
    nothing = {"country": [""], "likes": [["", ""]], "query": [[""]], "age": np.float32([np.nan])}
    nothing |= {"taste": np.full((1, DIM), np.nan, np.float32), "hour": np.float32([np.nan])}
    users = ["ü5", "only in the table", "nobody"]
    np.testing.assert_allclose(embed(model, users, **nothing), embed(model, users), atol=1e-7)
    # A list is cut to its longest, empty keys left out first.
    long = embed(model, users, query=[["best", "", "cheap", "ÄÖ"]])
    np.testing.assert_array_equal(long, embed(model, users, query=[["best", "cheap"]]))


def test_a_request_of_required_inputs_alone_is_completed_by_the_signatures_defaults(served):
    """As TensorFlow Serving completes it: values of SignatureDef.defaults are fed like those of a client."""
    _, world, dataset, path, model = served
    users = ["ü5", "only in the table", "nobody", *sorted({row["user"] for row in world.rows})[:9]]
    items = ["item 1", "fresh 1", "no such item", *sorted(world.sides[1])[:9]]
    required = {"user_embedding": {"user": users}, "score": {"user": users, "item": items}}
    required |= {"recommend": {"user": users}, "serving_default": {"user": users}}
    optional = {n for n, info in dataset.features.items() if info.of != "item" and info.kind != "cross"}
    optional |= {"history", "weight_likes"}
    restricting = {"k", "exclude_seen", "exclude", "include", "where_tags", "where_brand", "where_kind"}
    expected = {}
    for name, given in required.items():
        answer = getattr(model, name)(*map(tf.constant, given.values()))
        expected[name] = {key: value.numpy() for key, value in answer.items()}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], path).signature_def
        for name, given in required.items():
            signature = signatures[name]
            defaults = {key: tf.make_ndarray(value) for key, value in signature.defaults.items()}
            wanted = optional | (restricting if name == "recommend" else set())
            assert set(defaults) == (set() if name == "serving_default" else wanted)
            feeds = {signature.inputs[key].name: value for key, value in (defaults | given).items()}
            assert len(feeds) == len(signature.inputs)
            found = session.run({key: info.name for key, info in signature.outputs.items()}, feeds)
            for key, value in expected[name].items():
                if value.dtype == np.float32:
                    np.testing.assert_allclose(found[key], value, rtol=1e-6, atol=1e-7, err_msg=key)
                else:
                    np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_users_without_train_rows_have_their_features(served):
    _, world, _, _, model = served
    row = world.sides[0]["only in the table"]
    said = {name: [row[name] or ""] for name in ("country", "plan")}
    if row["likes"]:
        said |= {"likes": [row["likes"]], "weight_likes": np.float32([row["like_weights"]])}
    said |= {"age": np.float32([np.nan if row["age"] is None else row["age"]])}
    said |= {"taste": np.float32([[0.0] * DIM if row["taste"] is None else row["taste"]])}
    known = embed(model, ["only in the table"])
    np.testing.assert_allclose(embed(model, ["nobody"], **said), known, atol=1e-6)
    assert not np.allclose(embed(model, ["nobody"]), known)


def test_items_without_train_rows_have_vectors_of_their_own(served):
    _, world, _, _, model = served
    items = ["fresh 1", "fresh 2", "no such item"]
    vectors = model.item_embedding(tf.constant(items))["embedding"].numpy()
    assert not np.allclose(vectors[0], vectors[2]) or not world.sides[1]["fresh 1"]["tags"]
    answer = model.recommend(tf.constant(["ü1"]), k=1000)
    assert not {b"fresh 1", b"fresh 2"} & set(answer["items"].numpy()[0])


@pytest.mark.parametrize("tags", [["red"], ["x,y", "no such tag"], ["b/lue", "日本"]])
def test_where_on_a_list_finds_items_with_any_of_its_keys(served, tags):
    _, world, dataset, _, model = served
    where = tf.constant([tags])
    answer = model.recommend(tf.constant(["nobody"]), k=100, where_tags=where)
    found = {item.decode() for item in answer["items"].numpy()[0] if item}
    train = [row["item"] for row in world.rows if row["split"] == "train"]
    known = {item for item in train if train.count(item) >= 2}
    having = {
        item
        for item, row in world.sides[1].items()
        if set([tag for tag in row["tags"] if tag][:4]) & set(tags)
    }
    assert found == known & having and found


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"likes": [["red"]], "weight_likes": np.float32([[-1]])}, "a weight is negative"),
        ({"likes": [["red"]], "weight_likes": np.float32([[1, 2]])}, "a weight for each key"),
        ({"budget": np.float32([-1])}, "budget must be greater than -1"),
        ({"age": np.float32([np.inf])}, "age must be finite"),
        ({"query": [["a"], ["b"]]}, "query needs one row for all users"),
    ],
)
def test_values_that_no_dataset_holds_are_invalid(served, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        embed(served[4], ["ü5", "ü6", "ü7"], **inputs)


def test_the_shell_gives_features_of_every_kind(served, capsys, tmp_path):
    import argparse

    path = served[3]
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    common = ["--model", path, "--users", "ü5", "--k", "3", "--format", "jsonl"]
    flags = [
        "query=best,cheap",
        "likes=red,red,grün",
        "hour=5",
        "device=tv",
        "taste=" + ",".join(["1"] * DIM),
    ]
    pairs = [part for flag in flags for part in ("--set_feature", flag)]
    assert run(parser.parse_args([*common, *pairs, "--where", "tags=red,b/lue"])) == 0
    by_flags = json.loads(capsys.readouterr().out)
    request = {
        "user": "ü5",
        "features": {
            **{"query": ["best", "cheap"], "likes": {"red": 2.0, "grün": 1}, "hour": 5, "device": "tv"},
            "taste": [1] * DIM,
        },
        "where": {"tags": ["red", "b/lue"]},
    }
    file = tmp_path / "requests.jsonl"
    file.write_text(json.dumps(request) + "\n" + json.dumps({"user": "ü6"}) + "\n", encoding="utf-8")
    assert run(parser.parse_args(["--model", path, "--requests", str(file), *common[4:]])) == 0
    by_file = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert by_file[0]["items"][0]["item"] == by_flags["items"][0]["item"] and len(by_file) == 2
    with pytest.raises(ExportError, match="features.taste: expected 5 numbers, found 2"):
        run(parser.parse_args([*common, "--set_feature", "taste=1,2"]))


def test_metadata_names_the_form_of_each_feature(served):
    forms = read_metadata(served[3])["inputs"]["features"]
    assert (forms["likes"], forms["query"], forms["taste"]) == ("weighted_strings", "strings", "vector")
    assert forms["country"] == "string" and forms["hour"] == "float32" and "device_channel" not in forms
