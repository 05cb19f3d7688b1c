"""The served ranking model against the evaluator, for every kind of run and every signature."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from configs.errors import ExportError
from configs.manifest import load_dataset
from tests.support.ranking_runs import as_request, held_out_records, ranking_export, ranking_run
from tests.support.replays import replay_here
from trainer.data.split_rows import split_rows
from trainer.evaluation.trained import open_trained
from trainer.serving.export import Golden
from trainer.serving.predictions.golden import golden_predictions, sample_requests
from trainer.serving.predictions.rows import predict, row_request
from trainer.serving.replay import Difference
from trainer.serving.warmup import WARMUP_FILE, prediction_log_class

pytestmark = [pytest.mark.any_python, pytest.mark.slow]

KINDS = ["keys", "owners", "esmm", "mixed"]

# What TensorFlow Serving does with a request: its REST API's rules for JSON ("Request format": `instances` is
# a list of rows, `inputs` has columns), defaults of the SignatureDef for inputs that are left out, and the
# checks of Classify and Regress on the SignatureDef's method.
SERVER = """
import json, sys
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

def load(model):
    global definitions, loaded
    saved = saved_model_pb2.SavedModel()
    with open(model + "/saved_model.pb", "rb") as file:
        saved.ParseFromString(file.read())
    definitions, loaded = saved.meta_graphs[0].signature_def, tf.saved_model.load(model)

def tensor(info, value):
    if info.dtype == tf.string.as_datatype_enum:
        encoded = np.vectorize(lambda text: text.encode(), otypes=[object])
        return tf.constant(encoded(np.array(value, object)).tolist(), tf.string)
    return tf.constant(value, tf.as_dtype(info.dtype))

def call(name, given):
    definition = definitions[name]
    assert set(given) <= set(definition.inputs), set(given) - set(definition.inputs)
    for key, default in definition.defaults.items():
        if key not in given:
            given[key] = tf.constant(tf.make_ndarray(default), tf.as_dtype(default.dtype))
    assert set(given) == set(definition.inputs), "a required input is missing"
    return {key: value.numpy().tolist() for key, value in loaded.signatures[name](**given).items()}

def rest(request):
    name = request.get("signature_name", "serving_default")
    if "instances" in request:
        rows = request["instances"]
        columns = {key: [row[key] for row in rows] for key in rows[0]}
    else:
        columns = request["inputs"]
    infos = definitions[name].inputs
    return call(name, {key: tensor(infos[key], value) for key, value in columns.items()})

def answers(bodies, examples):
    serialized = [bytes.fromhex(line) for line in examples]
    found = {"json": [rest(request) for request in bodies]}
    found["example"] = call("predict_examples", {"examples": tf.constant(serialized)})
    for name, definition in definitions.items():
        if name.startswith("classify"):
            assert definition.method_name == "tensorflow/serving/classify"
        elif name.startswith("regress"):
            assert definition.method_name == "tensorflow/serving/regress"
        else:
            continue
        assert list(definition.inputs) == ["inputs"]
        answer = call(name, {"inputs": tf.constant(serialized)})
        assert set(answer) in ({"classes", "scores"}, {"outputs"})
        found[name] = answer
    return found

found = []
for model, bodies, examples in json.load(sys.stdin):
    load(model)
    found.append(answers(bodies, examples))
assert not any(name.split(".")[0] in ("trainer", "configs", "pipelines") for name in sys.modules)
print(json.dumps(found, default=bytes.decode))
"""


@functools.cache
def evaluated(kind: str) -> dict[str, np.ndarray]:
    """The evaluator's predictions of the rows of test, by task."""
    trained = open_trained(ranking_run(kind))
    rows = split_rows(trained.dataset, "test", trained.recommender.model.inputs, {}, 1 << 10)
    with trained.recommender.averaged_dense():
        found = trained.recommender.predictions(next(rows), True, float(trained.step))
    return {task: values.numpy() for task, values in found.items()}


def requests(kind: str) -> list[dict]:
    return [as_request(record) for record in held_out_records(kind == "owners")]


def inputs_of(path: str) -> dict:
    with open(os.path.join(path, "assets.extra", "lazytower.json")) as file:
        return json.load(file)["inputs"]


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_the_evaluators(kind):
    path, expected = ranking_export(kind), evaluated(kind)
    lines = [row_request(line, inputs_of(path), "a test") for line in requests(kind)]
    found = list(predict(path, lines))
    assert len(found) == 40 and set(found[0]) == set(expected)
    for task, values in expected.items():
        np.testing.assert_allclose([one[task] for one in found], values, rtol=0, atol=1e-6)
        assert values.std() > 1e-4


def test_thinned_negatives_are_corrected_for():
    """Without the correction, log(0.25) in the logit, the first task would predict more."""
    run, values = ranking_run("owners"), evaluated("owners")
    trained = open_trained(run)
    trained.recommender.model._shifts = [0.0, 0.0]
    rows = next(split_rows(trained.dataset, "test", trained.recommender.model.inputs, {}, 1 << 10))
    with trained.recommender.averaged_dense():
        plain = trained.recommender.predictions(rows, True, float(trained.step))
    click = plain["click"].numpy()
    np.testing.assert_allclose(values["click"], click / (click + (1 - click) / 0.25), atol=1e-6)
    np.testing.assert_allclose(values["buy"], plain["buy"], atol=1e-6)


def example(line: dict) -> bytes:
    found = tf.train.Example()
    for name, value in line.items():
        values = value if isinstance(value, list) else [value]
        feature = found.features.feature[name]
        if isinstance(values[0] if values else "", str):
            feature.bytes_list.value.extend(one.encode() for one in values)
        else:
            feature.float_list.value.extend(values)
    return found.SerializeToString()


def bodies(lines: list[dict]) -> list[dict]:
    """Requests as JSON: all rows in each form, and one that says little."""
    width = {"tags": 3, "history": 4}
    padded = [
        {n: v + [""] * (width[n] - len(v)) if isinstance(v, list) else v for n, v in line.items()}
        for line in lines
    ]
    columns = {name: [line[name] for line in padded] for name in padded[0]}
    return [
        {"signature_name": "score", "instances": padded},
        {"signature_name": "score", "inputs": columns},
        {"inputs": columns},
        {"signature_name": "score", "instances": [some_of(lines)]},
    ]


def some_of(lines: list[dict]) -> dict:
    return {name: lines[0][name] for name in ("c0", "n1")}


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict:
    """Answers of a fresh process without this project, by kind of run."""
    kinds, asked = ("owners", "mixed"), []
    for kind in kinds:
        lines = requests(kind)
        asked.append([ranking_export(kind), bodies(lines), [example(line).hex() for line in lines]])
    command = [sys.executable, "-I", "-c", SERVER]
    elsewhere = tmp_path_factory.mktemp("server")
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    return dict(zip(kinds, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("kind", ["owners", "mixed"])
def test_json_and_examples_in_a_fresh_process(kind, served):
    path, expected, found = ranking_export(kind), evaluated(kind), served[kind]
    answers = [*found["json"][:3], found["example"]]
    for task, values in expected.items():
        for answer in answers:
            np.testing.assert_allclose(answer[task], values, rtol=0, atol=1e-6)
    first, second = list(expected)
    np.testing.assert_allclose(found["regress"]["outputs"], expected[first], atol=1e-6)
    np.testing.assert_allclose(found[f"regress_{second}"]["outputs"], expected[second], atol=1e-6)
    scores = np.array(found["classify"]["scores"])
    np.testing.assert_allclose(scores[:, 1], expected["click"], atol=1e-6)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    assert found["classify"]["classes"] == [["0", "1"]] * 40
    assert ("classify_buy" in found) == (kind == "owners")  # a number has no classes
    [alone] = predict(path, [row_request(some_of(requests(kind)), inputs_of(path), "a test")])
    for task, value in alone.items():
        np.testing.assert_allclose(found["json"][3][task], [value], atol=1e-6)


@pytest.fixture(scope="module")
def owners():
    return tf.saved_model.load(ranking_export("owners"))


def ask(model, **inputs):
    found = model.score(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in found.items()}


def test_one_user_with_many_items(owners):
    items = [f"item{i % 17}" for i in range(3000)]
    one = {"user": ["user3"], "history": [["item1", "item2"]], "c0": ["c0:4"], "tags": [["tags:1", "tags:2"]]}
    found = ask(owners, item=items, **one)
    each = ask(owners, item=items, **{name: value * 3000 for name, value in one.items()})
    assert len(np.unique(found["click"])) > 5
    for task, values in found.items():
        assert values.shape == (3000,) and values.dtype == np.float32
        np.testing.assert_allclose(values, each[task], atol=1e-6)


def test_what_says_nothing_is_what_is_left_out(owners):
    nothing = {"user": [""], "item": ["", ""], "history": [["", ""]], "c0": [""], "tags": [["", ""]]}
    said, left_out = ask(owners, **nothing, n0=[np.nan]), ask(owners)
    for task, values in said.items():
        np.testing.assert_allclose(values, np.repeat(left_out[task], 2), atol=1e-6)
    zero = ask(owners, n0=[0.0], n1=[0.0])  # their `missing`
    for task, values in zero.items():
        np.testing.assert_allclose(values, left_out[task], atol=1e-6)


def test_no_rows_have_no_predictions(owners):
    found = ask(owners, item=np.array([], object).astype(bytes), user=["user1"])
    assert {values.shape for values in found.values()} == {(0,)}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"item": ["a", "b"], "c0": ["x", "y", "z"]}, "inputs need one row, or as many as the longest"),
        ({"n0": [np.inf]}, "n0 must be finite"),
    ],
)
def test_bad_requests_are_invalid(owners, inputs, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ask(owners, **inputs)


def test_warm_up_requests_are_answered(owners):
    dtypes = {
        name: spec.dtype for name, spec in owners.signatures["score"].structured_input_signature[1].items()
    }
    answered = []
    for record in tf.data.TFRecordDataset(os.path.join(ranking_export("owners"), WARMUP_FILE)):
        request = prediction_log_class().FromString(record.numpy()).predict_log.request
        given = {
            name: tf.io.parse_tensor(value, dtypes.get(name, tf.string))
            for name, value in request.inputs.items()
        }
        name = request.model_spec.signature_name
        values = getattr(owners, "score" if name == "serving_default" else name)(**given)
        answered.append((name, len(values["click"])))
    assert answered == [
        ("serving_default", 1),
        *(("score", 1), ("predict_examples", 1), ("score", 8), ("predict_examples", 8)),
    ]


def test_the_replay_notices_another_prediction():
    trained, path = open_trained(ranking_run("owners")), ranking_export("owners")
    with trained.recommender.averaged_dense():
        golden = golden_predictions(trained, {"classify": "click"}, sample_requests(trained))
    replay_here(path, Golden(lambda: golden))
    golden["predictions"][2]["expected"]["buy"][5] += 1e-5
    with pytest.raises(Difference, match="score, buy, request 2"):
        replay_here(path, Golden(lambda: golden))


def test_lazytower_json_says_what_the_model_is():
    with open(os.path.join(ranking_export("owners"), "assets.extra", "lazytower.json")) as file:
        found = json.load(file)
    dataset = load_dataset(ranking_run("owners").dataset.path)
    assert found["family"] == "ranking" and found["weights"] == "average" and found["step"] == 4
    assert found["dataset_fingerprint"] == dataset.fingerprint and found["keep_negatives"] == 0.25
    assert [task["name"] for task in found["tasks"]] == ["click", "buy"]
    assert found["inputs"]["features"]["tags"] == "strings" and found["inputs"]["kinds"]["n0"] == "numeric"
    assert found["signatures"]["classify"] == "click"


def test_a_row_that_the_model_refuses_is_named(monkeypatch):
    path = ranking_export("owners")
    lines = [row_request({"n0": 1.0}, inputs_of(path), f"rows.jsonl:{i}") for i in (1, 2, 3)]
    monkeypatch.setitem(lines[1].features, "n0", np.inf)
    with pytest.raises(ExportError, match="rows.jsonl:2: the model refuses the row: .*n0 must be finite"):
        list(predict(path, lines))
