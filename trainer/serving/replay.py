"""Replays golden examples on a SavedModel with TensorFlow and NumPy alone; see trainer.serving.golden.

Run as `python -I -c "$(cat replay.py)" MODEL_DIR [OP_LIBRARY] < GOLDEN.json`: export does so in a fresh
process, and so may anyone who serves the model. Reads the examples after it has loaded the model: they can be
made meanwhile. Prints `ok` and exits with 0, or names the first difference and exits with 1.
"""

import atexit
import gc
import json
import sys

PROJECT = ("trainer", "configs", "pipelines")


class RefuseProject:
    """Import hook: serving must not need the project, even where it happens to be installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] in PROJECT:
            raise ImportError(f"the SavedModel needs {name}, which a server does not have")
        return None


class Difference(Exception):
    """The model does not answer as it should."""


def load(model_dir, op_library=None):
    """The signatures of a SavedModel whose operations are in TensorFlow and `op_library`."""
    import tensorflow as tf

    if op_library:
        tf.load_op_library(op_library)
    return tf.saved_model.load(model_dir).signatures


def replay(signatures, golden):
    """Asks all golden questions. Raises Difference."""
    import numpy as np
    import tensorflow as tf

    approximate = golden["approximate"]

    def ask(name, **inputs):
        for key, spec in signatures[name].structured_input_signature[1].items():
            if key not in inputs:  # the value that says nothing
                empty = np.nan if spec.dtype == tf.float32 else ""
                shape = [1, *(size or 0 for size in spec.shape[1:])]
                inputs[key] = tf.fill(shape, tf.constant(empty, spec.dtype))
        return {key: value.numpy() for key, value in signatures[name](**inputs).items()}

    def keys(texts):
        return tf.constant([text.encode("latin-1") for text in texts], tf.string)

    def rows(lists):
        width = max(map(len, lists))
        texts = [text for row in lists for text in row + [""] * (width - len(row))]
        return tf.reshape(keys(texts), [len(lists), width])

    def value(given):
        if isinstance(given[0], list) and not any(isinstance(one, float) for row in given for one in row):
            return rows(given)
        return keys(given) if isinstance(given[0], str) else tf.constant(given, tf.float32)

    users = keys(golden["users"])
    same("user_embedding", ask("user_embedding", user=users)["embedding"], golden["user_vectors"])
    items = ask("item_embedding", item=keys(golden["items"]))["embedding"]
    same("item_embedding", items, golden["item_vectors"])
    pairs_of_users, pairs_of_items, scores = zip(*golden["scores"])  # noqa: B905 - runs on any Python 3
    found = ask("score", user=keys(pairs_of_users), item=keys(pairs_of_items))["score"]
    same("score", found, scores)
    recalls = []
    for request in golden["recommend"]:
        answers = request["answers"]
        found = ask(
            "recommend",
            user=users,
            k=tf.constant(request["k"]),
            exclude_seen=tf.constant(request["exclude_seen"]),
            exclude=rows([answer["exclude"] for answer in answers]),
            **{name: value(given) for name, given in request["inputs"].items()},
        )
        exact = request["exact"] or not approximate
        for i, answer in enumerate(answers):
            what = f"recommend, k {request['k']}, {sorted(request['inputs'])}, user {golden['users'][i]!r}"
            lists = found["items"][i], found["scores"][i]
            recalls.append(check_list(what, *lists, request["k"], answer, exact))
    if approximate and np.mean(recalls) < approximate["least_recall"]:
        raise Difference(f"recommend: finds {np.mean(recalls):.3f} of the best items")


def replay_predictions(signatures, golden):
    """Asks all golden questions of a ranking model, by every signature. Raises Difference."""
    import tensorflow as tf

    specs = signatures["score"].structured_input_signature[1]
    for number, request in enumerate(golden["predictions"]):
        given = {name: request["inputs"].get(name, empty_input(spec)) for name, spec in specs.items()}
        tensors = {name: input_tensor(spec, given[name]) for name, spec in specs.items()}
        examples = tf.constant(as_examples(specs, given))
        found = {
            "score": signatures["score"](**tensors),
            "predict_examples": signatures["predict_examples"](examples=examples),
        }
        for name, task in golden["forms"].items():
            answer = signatures[name](inputs=examples)
            found[name] = {task: answer["outputs"] if "outputs" in answer else answer["scores"][:, 1]}
        for name, answer in found.items():
            for task, values in answer.items():
                what = f"{name}, {task}, request {number}"
                same(what, values.numpy(), request["expected"][task], request["limits"][task])


def empty_input(spec):
    """What says nothing, as one row."""
    if len(spec.shape) == 1:
        return [""] if spec.dtype.name == "string" else [float("nan")]
    return [[float("nan")] * (spec.shape[1] or 0)]


def input_tensor(spec, given):
    """An input from its JSON value; keys are bytes read as latin-1, and lists are filled up."""
    import tensorflow as tf

    text = spec.dtype == tf.string
    if len(spec.shape) == 1:
        return tf.constant([one.encode("latin-1") if text else one for one in given], spec.dtype)
    width = max(map(len, given))
    flat = [one for row in given for one in row + ["" if text else 0.0] * (width - len(row))]
    flat = [one.encode("latin-1") for one in flat] if text else flat
    return tf.constant(flat, spec.dtype, shape=[len(given), width])


def as_examples(specs, given):
    """The rows of inputs as tf.train.Example; inputs of one row are those of all."""
    import tensorflow as tf

    found = []
    for i in range(max(map(len, given.values()))):
        example = tf.train.Example()
        for name, spec in specs.items():
            row = given[name][i if len(given[name]) > 1 else 0]
            values = row if isinstance(row, list) else [row] * (row == row and row != "")
            feature = example.features.feature[name]
            if spec.dtype == tf.string:
                feature.bytes_list.value.extend(one.encode("latin-1") for one in values)
            else:
                feature.float_list.value.extend(values)
        found.append(example.SerializeToString())
    return found


def same(what, found, expected, limit=None):
    """Compares float32 arrays up to rounding, or to `limit` of 1 or of larger numbers; Difference names the
    first place that differs."""
    import numpy as np

    expected = np.asarray(expected, np.float32)
    if found.shape != expected.shape:
        raise Difference(f"{what}: shape {found.shape}, expected {expected.shape}")
    if limit is None:
        limit = 1e-4 * np.abs(expected) + 1e-5 * max(1.0, np.abs(expected).max(initial=0))
    else:
        limit = limit * np.maximum(1.0, np.abs(expected))
    wrong = ~(np.abs(found - expected) <= limit)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise Difference(f"{what}: {found[place]} at {place}, expected {expected[place]}")


def check_list(what, items, scores, k, answer, exact):
    """One user's list against the expected one; items may trade places when their scores are equal.

    Unless it has to be `exact`, items may be missing. Returns the share of the best items that it holds.
    """
    expected, best = dict(answer["extended"]), [score for _, score in answer["extended"]]
    items = [item.decode("latin-1") for item in items]
    most = min(k, len(expected))
    number = most if exact else min(most, sum(map(bool, items)))
    if len(items) != k or any(items[number:]) or not all(items[:number]):
        raise Difference(f"{what}: {sum(map(bool, items))} items of {len(items)}, expected {most} of {k}")
    if len(set(items[:number])) != number or set(items) & set(answer["banned"]):
        raise Difference(f"{what}: an item twice, or one that is excluded: {items}")
    if exact:
        same(what, scores[:number], best[:number])
    elif any(scores[i] < scores[i + 1] for i in range(number - 1)):
        raise Difference(f"{what}: scores rise: {scores}")
    for place, item in enumerate(items[:number]):
        # An item beyond the extended list ties with its last; its score was compared by its place.
        if item in expected:
            same(f"{what}, item {item!r}", scores[place : place + 1], [expected[item]])
        elif best and scores[place] > best[-1] + 1e-4 * abs(best[-1]) + 1e-5:
            raise Difference(f"{what}, item {item!r}: {scores[place]} would be among the best")
    return len(set(items[:number]) & {item for item, _ in answer["extended"][:most]}) / most if most else 1.0


def main(argv):
    """Exit code of the replay."""
    gc.set_threshold(50_000, 10, 10)  # as configs.system.garbage, which is out of reach here
    atexit.register(gc.freeze)
    sys.meta_path.insert(0, RefuseProject)
    signatures = load(*argv[1:])
    golden = json.load(sys.stdin)
    try:
        if "predictions" in golden:
            replay_predictions(signatures, golden)
        else:
            replay(signatures, golden)
    except Difference as difference:
        print(difference)
        return 1
    if any(name.split(".")[0] in PROJECT for name in sys.modules):
        print("the SavedModel imported the project's code")
        return 1
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
