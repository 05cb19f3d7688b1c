"""The served model against brute force in NumPy, for every kind of run."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

from configs.manifest import load_dataset
from tests.support.tiny_run import ITEMS, USERS, any_python, tiny_export, tiny_model, tiny_run
from trainer.indexes.base import NO_SCORE
from trainer.serving.model import DEFAULT_K
from trainer.serving.warmup import WARMUP_FILE, prediction_log_class

pytestmark = pytest.mark.any_python

KINDS = ["towers", *any_python("plain", "history", "hash", "robe")]
KINDS += [pytest.param(kind, marks=pytest.mark.slow) for kind in ("sequence", "others", "robe_bias")]
USER_KEYS = [f"ü{i}".encode() for i in range(USERS)]
ITEM_KEYS = [f"item {i}".encode() for i in range(ITEMS)]
UNKNOWN = b"nobody"


@pytest.fixture(scope="module", params=KINDS)
def served(request):
    """(TinyRun, the loaded SavedModel)."""
    return tiny_run(request.param), tiny_model(request.param)


# One of each kind of inputs: keys alone, those of features and history, hashed keys.
@pytest.fixture(scope="module", params=["towers", *any_python("plain", "hash")])
def session(request):
    """(kind, TensorFlow 1 session with the model, its signatures), as TensorFlow Serving runs it."""
    running = tf.compat.v1.Session(graph=tf.Graph())
    with running.graph.as_default():
        meta_graph = tf.compat.v1.saved_model.load(running, ["serve"], tiny_export(request.param))
    yield request.param, running, dict(meta_graph.signature_def)
    running.close()


def _ask(model, users, k=DEFAULT_K, exclude_seen=True, exclude=None):
    exclude = tf.zeros([1, 0], tf.string) if exclude is None else tf.constant(exclude)
    answer = model.recommend(tf.constant(users), tf.constant(k), tf.constant(exclude_seen), exclude)
    return {name: value.numpy() for name, value in answer.items()}


def _rows_of(run, side, keys):
    """Table rows of keys, worked out from the raw interactions."""
    info = load_dataset(run.config.dataset.path).tables[side]
    if info.ids == "hash":
        return tf.strings.to_hash_bucket_fast(keys, info.rows).numpy()
    train = [getattr(row, side) for row in run.rows if row.split == "train"]
    least = getattr(run.config.dataset, f"{side}_ids").min_count
    frequent = [key for key in set(train) if train.count(key) >= least]
    order = sorted(frequent, key=lambda key: (-train.count(key), key))
    return np.array([order.index(key) if key in order else info.oov for key in keys])


class Expected:
    """Lists of `recommend`, from the raw interactions and the two embeddings."""

    def __init__(self, run, model):
        self.run = run
        self.info = load_dataset(run.config.dataset.path).tables["item"]
        self.row_of_item = dict(zip(ITEM_KEYS, _rows_of(run, "item", ITEM_KEYS), strict=True))
        self.row_of_user = dict(zip(USER_KEYS, _rows_of(run, "user", USER_KEYS), strict=True))
        used = {row.item for row in run.rows}
        # A row's name is that of its most frequent train key.
        train = [row.item for row in run.rows if row.split == "train"]
        by_row = {}
        for key in sorted(used, key=lambda key: (-train.count(key), key)):
            by_row.setdefault(self.row_of_item[key], key)
        by_row.pop(self.info.oov, None)
        self.name = by_row
        self.vectors = model.signatures["item_embedding"](item=tf.constant(list(by_row.values())))
        self.vectors = self.vectors["embedding"].numpy()

    def seen(self, user):
        mine = [r for r in self.run.rows if self.row_of_user.get(r.user, -1) == self.row_of_user.get(user)]
        return {self.row_of_item[row.item] for row in mine}

    def check(self, user, vector, items, scores, k, banned):
        left = {row: score for row, score in zip(self.name, self.vectors @ vector, strict=True)}
        left = {row: score for row, score in left.items() if row not in banned}
        best = sorted(left.values(), reverse=True)[:k]
        assert len(items) == k
        assert all(items[: len(best)]) and not any(items[len(best) :])
        assert (scores[len(best) :] == np.float32(NO_SCORE)).all()
        np.testing.assert_allclose(scores[: len(best)], best, rtol=1e-5, atol=1e-6)
        rows = [self.row_of_item[item] for item in items[: len(best)]]
        assert len(set(rows)) == len(best)
        np.testing.assert_allclose([left[row] for row in rows], best, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 7, ITEMS + 20])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_recommend_equals_brute_force_for_all_users(served, k, exclude_seen):
    run, model = served
    users = [*USER_KEYS, UNKNOWN] if run.config.model.kind == "two_tower" else USER_KEYS
    expected = Expected(run, model)
    vectors = model.user_embedding(tf.constant(users))["embedding"].numpy()
    exclude = [[ITEM_KEYS[i % 9], b"", ITEM_KEYS[(i + 3) % 9], b"no item"] for i in range(len(users))]
    answer = _ask(model, users, k, exclude_seen, exclude)
    no_item = set(_rows_of(run, "item", [b"no item"]))
    for i, user in enumerate(users):
        banned = {expected.row_of_item[exclude[i][0]], expected.row_of_item[exclude[i][2]]} | no_item
        banned |= expected.seen(user) if exclude_seen else set()
        expected.check(user, vectors[i], answer["items"][i], answer["scores"][i], k, banned)


def test_known_tells_trained_users_from_others(served):
    run, model = served
    answer = _ask(model, [*USER_KEYS, UNKNOWN], 1)
    trained = set(_rows_of(run, "user", [row.user for row in run.rows if row.split == "train"]))
    expected = [row in trained for row in _rows_of(run, "user", [*USER_KEYS, UNKNOWN])]
    info = load_dataset(run.config.dataset.path).tables["user"]
    if info.ids == "vocab":
        expected[-1] = False
    assert answer["known"].tolist() == expected


def test_score_is_the_dot_product_of_the_embeddings(served):
    _, model = served
    users, items = [*USER_KEYS, UNKNOWN], [*ITEM_KEYS[: len(USER_KEYS)], UNKNOWN]
    vectors = model.user_embedding(tf.constant(users))["embedding"].numpy()
    others = model.item_embedding(tf.constant(items))["embedding"].numpy()
    score = model.score(tf.constant(users), tf.constant(items))["score"].numpy()
    np.testing.assert_allclose(score, (vectors * others).sum(axis=1), rtol=1e-5, atol=1e-6)


def test_an_empty_batch_gives_an_empty_answer(served):
    answer = _ask(served[1], tf.zeros([0], tf.string), 3)
    assert answer["items"].shape == answer["scores"].shape == (0, 3)


def test_one_row_of_excluded_items_holds_for_all_users(served):
    _, model = served
    first = _ask(model, USER_KEYS, 1, False)["items"][0, 0]
    items = _ask(model, USER_KEYS, 5, False, [[first]])["items"]
    assert first not in items
    each = _ask(model, USER_KEYS, 5, False, [[first]] * len(USER_KEYS))["items"]
    np.testing.assert_array_equal(items, each)


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_out_of_range_is_an_invalid_argument(served, k):
    with pytest.raises(tf.errors.InvalidArgumentError, match="k must be 1 to 1000"):
        _ask(served[1], USER_KEYS[:1], k)


def test_exclude_of_a_wrong_number_of_rows_is_an_invalid_argument(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match="one row for all users"):
        _ask(served[1], USER_KEYS[:3], 2, True, [[b"a"], [b"b"]])


def _past(run, user):
    """Items of a user's rows that training knows, oldest first."""
    least = getattr(run.config.dataset.item_ids, "min_count", 1)
    train = [row.item for row in run.rows if row.split == "train"]
    return [row.item for row in run.rows if row.user == user and train.count(row.item) >= least]


@pytest.mark.parametrize("kind", ["towers", *any_python("history", "sequence")])
def test_a_request_says_what_its_users_did_and_are(kind):
    """Users whose own row is not read, or is the one that unknown keys share, differ by state alone."""
    run, model = tiny_run(kind), tiny_model(kind)
    users, nobody = USER_KEYS[:6], [UNKNOWN] * 6
    state = {}
    for name in ("country", "age") if kind == "towers" else ():
        state[name] = tf.constant([run.features[name].values[user] for user in users])
    length = run.config.dataset.history_length
    histories = [[b"no item", *_past(run, user)] for user in users]
    width = max(map(len, histories))
    history = tf.constant([[*past, *[b""] * (width - len(past))] for past in histories])
    said = model.user_embedding(tf.constant(nobody), history=history, **state)["embedding"].numpy()
    if kind == "history":
        known = model.user_embedding(tf.constant(users))["embedding"].numpy()
        np.testing.assert_allclose(said, known, rtol=1e-6)
    again = model.user_embedding(tf.constant(users), history=history, **state)["embedding"].numpy()
    np.testing.assert_allclose(
        again, model.user_embedding(tf.constant(users))["embedding"].numpy(), rtol=1e-6
    )
    # The newest ones alone count, and a score is that of the same vector.
    newest = tf.constant([[*past[-length:], *[b""] * (length - len(past[-length:]))] for past in histories])
    last = model.user_embedding(tf.constant(nobody), history=newest, **state)["embedding"].numpy()
    np.testing.assert_allclose(last, said, rtol=1e-6)
    items = tf.constant(ITEM_KEYS[:6])
    score = model.score(tf.constant(nobody), items, history=history, **state)["score"].numpy()
    vectors = model.item_embedding(items)["embedding"].numpy()
    np.testing.assert_allclose(score, (said * vectors).sum(axis=1), rtol=1e-5, atol=1e-6)


@pytest.mark.any_python
def test_an_item_counts_once_in_a_history_without_an_order():
    model = tiny_model("others")
    users = tf.constant([*USER_KEYS[:2], UNKNOWN])
    once = [[b"item 1", b"item 0", b""], [b"item 2", b"", b""], [b"item 0", b"item 1", b"item 2"]]
    often = [
        [b"item 1", b"item 0", b"item 1", b"item 0"],
        [b"item 2", b"no item", b"item 2", b""],
        [b"item 1", b"item 0", b"item 2", b"item 2"],
    ]
    found = [
        model.user_embedding(users, history=tf.constant(history))["embedding"].numpy()
        for history in (once, often)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(found[0], axis=0)).max(axis=1).min() > 1e-3


@pytest.mark.any_python
def test_items_of_the_history_that_a_request_says_count_as_seen():
    model = tiny_model("history")
    history = tf.constant([[ITEM_KEYS[1], ITEM_KEYS[3]]])
    for seen in (True, False):
        answer = model.recommend(tf.constant([UNKNOWN]), 40, tf.constant(seen), history=history)
        items = answer["items"].numpy()[0].tolist()
        assert (ITEM_KEYS[1] in items) is not seen and (ITEM_KEYS[3] in items) is not seen


@pytest.mark.parametrize("each", [False, True])
def test_where_and_include_restrict_the_answer(each):
    run, model = tiny_run("towers"), tiny_model("towers")
    expected, genres = Expected(run, model), run.features["genre"].values
    users = USER_KEYS[:5]
    rows = len(users) if each else 1
    where = [[b"g%d" % (i % 5), b"g4", b"no such genre"] for i in range(rows)]
    include = [[*ITEM_KEYS[i : i + 25], b"no item"] for i in range(rows)]
    vectors = model.user_embedding(tf.constant(users))["embedding"].numpy()
    for inputs in ({"where_genre": where}, {"include": include}, {"where_genre": where, "include": include}):
        given = {name: tf.constant(value) for name, value in inputs.items()}
        answer = model.recommend(tf.constant(users), 20, **given)
        for i, user in enumerate(users):
            row = i if each else 0
            banned = expected.seen(user)
            for key, place in expected.row_of_item.items():
                out = "where_genre" in inputs and genres[key] not in where[row]
                if out or ("include" in inputs and key not in include[row]):
                    banned = banned | {place}
            items, scores = answer["items"].numpy()[i], answer["scores"].numpy()[i]
            expected.check(user, vectors[i], items, scores, 20, banned)


def test_optional_inputs_of_a_wrong_number_of_rows_are_invalid_arguments():
    model = tiny_model("towers")
    for name in ("include", "where_genre", "history"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} needs one row for all users"):
            model.recommend(tf.constant(USER_KEYS[:3]), **{name: tf.constant([[b"a"], [b"b"]])})
    with pytest.raises(tf.errors.InvalidArgumentError, match="country needs one row for all users"):
        model.user_embedding(tf.constant(USER_KEYS[:3]), country=tf.constant([b"a", b"b"]))


def test_defaults_hold_as_tensorflow_serving_runs_a_signature(session):
    """A session that feeds `user` alone, from the signature's own defaults, as PreProcessPrediction does."""
    kind, running, signatures = session
    model = tiny_model(kind)
    expected = _ask(model, USER_KEYS[:4])
    np.testing.assert_array_equal(model.recommend(tf.constant(USER_KEYS[:4]))["items"], expected["items"])
    for name in ("recommend", "serving_default"):
        found = _run(running, signatures[name], {"user": USER_KEYS[:4]})
        np.testing.assert_array_equal(found["items"], expected["items"])
    defaults = {key: tf.make_ndarray(v) for key, v in signatures["recommend"].defaults.items()}
    assert defaults["k"] == DEFAULT_K and defaults["exclude_seen"] and defaults["exclude"].shape == (1, 0)


def test_warm_up_requests_can_be_answered(session):
    kind, running, signatures = session
    message, asked = prediction_log_class(), set()
    for record in tf.compat.v1.io.tf_record_iterator(f"{tiny_export(kind)}/{WARMUP_FILE}"):
        request = message.FromString(record).predict_log.request
        inputs = {
            name: tf.make_ndarray(TensorProto.FromString(value)) for name, value in request.inputs.items()
        }
        _run(running, signatures[request.model_spec.signature_name], inputs)
        asked.add(request.model_spec.signature_name)
    assert asked == set(signatures) - {"__saved_model_init_op"}


def _run(session, signature, inputs):
    assert set(inputs) | set(signature.defaults) >= set(signature.inputs)
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    return session.run({name: info.name for name, info in signature.outputs.items()}, feeds)
