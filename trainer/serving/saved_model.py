"""From a checkpoint to the files of a SavedModel, at the cost of one copy of the weights in memory."""

import contextlib
import datetime
import json
import os
import platform

import numpy as np
import tensorflow as tf
from absl import logging

from configs.errors import ExportError
from trainer.data.chain.catalogs import KEY, catalog_blocks
from trainer.data.features import empty_column, model_inputs
from trainer.evaluation.trained import Trained
from trainer.indexes.base import NO_SCORE, make_index
from trainer.indexes.packages import INSTALL
from trainer.indexes.recall import measure_recall
from trainer.serving.inputs.build import feature_inputs, read_features
from trainer.serving.lookups import item_filters, key_table
from trainer.serving.model import DEFAULT_K, WHERE, ServingModel, UserState
from trainer.serving.user_rows import UserRows, load_user_rows
from trainer.serving.warmup import write_warmup_requests
from trainer.serving.weights import averaged, served_lookup, tables_of, write_rows
from trainer.version import VERSION

METADATA = "assets.extra/lazytower.json"
_ITEM_CHUNK = 1 << 16
_EXAMPLES = 20
_WARMUP_BATCHES = (1, 8)
_RECALL_USERS = 256
_RECALL_AT = (10, 100)


def write_saved_model(trained: Trained, path: str, version: int) -> np.ndarray:
    """Writes the SavedModel, its warm-up requests and lazytower.json.

    Args:
      trained: the open checkpoint, dense weights already as they shall be served.
      path: directory to make.
      version: its number, for lazytower.json.

    Returns:
      Catalog ids int64 of all users in the catalog, ascending.

    Raises:
      ExportError: weights are not finite, or keys cannot be exported.
      DataError: the dataset cannot be read.
    """
    history_length = trained.dataset.history_length if _reads(trained, "history") else 0
    users = load_user_rows(
        trained.dataset,
        trained.items,
        history_length,
        seen=trained.config.export.exclude_seen,
        features=[n for n in _features(trained) if trained.dataset.features[n].of == "user"],
    )
    model, index = _serving_model(trained, users, history_length)
    inputs = _inputs(trained, model)
    save_module(model, path)
    examples = _example_users(trained, users.known)
    write_warmup_requests(path, _warmup_requests(trained, examples))
    write_metadata(path, _metadata(trained, version, examples, index, inputs))
    return np.flatnonzero(users.listed)


def save_module(model, path: str) -> None:
    """Writes a tf.Module with `signatures()` as a SavedModel."""
    size = sum(int(np.prod(v.shape)) * v.dtype.size for v in model.variables if v.dtype != tf.string)
    logging.info("writing the SavedModel: %.2f GB of weights and lists", size / 1e9)
    with _quiet():
        # Without the layers' own gradients: nobody trains a served model.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(model, path, signatures=model.signatures(), options=options)


def write_metadata(path: str, document: dict) -> None:
    """Writes lazytower.json beside the warm-up requests."""
    with open(os.path.join(path, METADATA), "w", encoding="utf-8") as file:
        json.dump(document, file, indent=1)


def run_facts(trained: Trained, version: int) -> dict:
    """What lazytower.json says of every model."""
    return {
        "name": trained.config.name,
        "version": version,
        "exported_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "family": trained.config.model.family,
        "model": trained.config.model.kind,
        "step": trained.step,
        "chosen": trained.chosen,
        "weights": "average" if averaged(trained) else "raw",
        "dataset_fingerprint": trained.dataset.fingerprint,
        "versions": {
            "lazytower": VERSION,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
    }


@contextlib.contextmanager
def _quiet():
    """TensorFlow reports every renamed graph input and internal timing at the level of information."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _features(trained: Trained) -> list[str]:
    """Features that the user tower reads, and keys of its crosses."""
    return read_features(trained.dataset, trained.recommender.model.user_inputs)


def _reads(trained: Trained, name: str) -> bool:
    return name in trained.recommender.model.user_inputs


def _serving_model(trained: Trained, users: UserRows, history_length: int) -> tuple[ServingModel, dict]:
    """The model, and what lazytower.json says of its index."""
    recommender, items = trained.recommender, trained.items
    # Those that may be recommended come first, so that no request has to tell them from the others; of these,
    # those that histories may hold.
    order = np.argsort(2 - items.known - (items.known & items.in_histories), kind="stable")
    vectors = _item_vectors(trained, order)
    index = make_index(trained.config.export.index, vectors, len(items.ids))
    tables = tables_of(trained, recommender.model.user_inputs)
    user_tower = _user_tower(recommender, tables)
    model = ServingModel(
        user_keys=key_table(trained, "user"),
        item_keys=key_table(trained, "item"),
        users=UserState(
            users.known,
            users.history,
            history_length,
            users.seen,
            history_is_set=trained.dataset.history_of == "others",
        ),
        inputs=feature_inputs(trained.dataset, _features(trained), users.features),
        item_filters=item_filters(trained, order),
        item_order=order,
        servable=len(items.ids),
        in_histories=int(items.in_histories.sum()),
        item_vectors=vectors,
        item_names=items.keys[order],
        index=index,
        user_tower=user_tower,
        weights=[*tables.values(), *_tower_weights(trained, user_tower)],
        max_k=trained.config.export.max_k,
    )
    facts = index.facts()
    if not trained.config.export.index.exact:
        facts |= _recall(trained, model, index, vectors, users.known)
        logging.info("index: %s", ", ".join(f"{name} {value}" for name, value in facts.items()))
    if needed := trained.config.export.index.package:
        facts |= {"needs": f"the TensorFlow operations of the package {needed}: {INSTALL[needed]}"}
    return model, facts


def _recall(trained: Trained, model: ServingModel, index, vectors: tf.Variable, known: np.ndarray) -> dict:
    """recall@k by name, and its users; ExportError when it is too low."""
    rows = np.flatnonzero(known) if known.any() else np.arange(len(known))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _RECALL_USERS).astype(int))]
    most = min(trained.config.export.max_k, len(trained.items.ids))
    ks = sorted({min(k, most) for k in _RECALL_AT})
    users = model.user_vectors(tf.constant(rows, tf.int64))
    found = measure_recall(index, users, vectors, len(trained.items.ids), ks)
    if found[ks[0]] < (least := trained.config.export.index.min_recall):
        raise ExportError(
            f"the index finds {found[ks[0]]:.3f} of the exact best {ks[0]} items, export.index.min_recall is "
            f"{least}: raise export.index.leaves_to_search or reorder"
        )
    return {f"recall@{k}": round(share, 4) for k, share in found.items()} | {"recall_users": len(rows)}


def _user_tower(recommender, tables: dict[str, tf.Variable]):
    """The model's own user tower, from catalog ids of users and of the items of their history."""
    lookup = served_lookup(recommender, tables, recommender.model.user_inputs)
    return lambda inputs: recommender.model.user_vectors(*lookup(inputs))


def _tower_weights(trained: Trained, user_tower) -> list[tf.Variable]:
    """The dense weights that the user tower reads, found by watching it run for one user."""
    infos, ids = trained.dataset.features, np.zeros(1, np.int64)
    features = {
        name: empty_column(info, 0, 1)
        for name, info in infos.items()
        if name in trained.recommender.model.user_inputs
    }
    inputs = model_inputs(infos, {"user": ids, "history": ids[:, None], **features})
    inputs = {name: tf.constant(value) for name, value in inputs.items()}
    with tf.GradientTape() as tape:
        user_tower(inputs)
    return list(tape.watched_variables())


def _item_vectors(trained: Trained, order: np.ndarray) -> tf.Variable:
    """Vectors of all catalog ids of items, in this order of the ids."""
    items, recommender, vectors = trained.items, trained.recommender, None
    for start in range(0, items.rows, _ITEM_CHUNK):
        ids = order[start : start + _ITEM_CHUNK]
        inputs = items.inputs(recommender.model.item_inputs, ids)
        chunk = recommender.item_vectors(inputs, averaged(trained), float(trained.step))
        if vectors is None:
            vectors = tf.Variable(
                tf.zeros([items.rows, chunk.shape[1]]), trainable=False, name="item_vectors"
            )
        write_rows(vectors, start, chunk, "item vectors")
    return vectors


def _example_users(trained: Trained, known: np.ndarray) -> list[bytes]:
    """Keys of a few users with train rows, spread over the table."""
    ids = np.flatnonzero(known)
    ids = ids[np.unique(np.linspace(0, len(ids) - 1, _EXAMPLES).astype(int))] if len(ids) else ids
    found = {}
    for block in catalog_blocks(trained.dataset, "user", [KEY], ids):
        for i in np.flatnonzero(np.isin(block.ids, ids)):
            found[int(block.ids[i])] = block.columns[KEY][i]
        if len(found) == len(ids):
            break
    return [found[i] for i in sorted(found)]


def _warmup_requests(trained: Trained, examples: list[bytes]) -> list[tuple[str, dict]]:
    """Each signature once per batch size; `recommend` with and without its optional inputs."""
    item = trained.items.keys[trained.items.ids[:1]].tolist()
    requests = []
    for batch in _WARMUP_BATCHES if examples and item else ():
        users = [examples[i % len(examples)] for i in range(batch)]
        k = np.int32(min(DEFAULT_K, trained.config.export.max_k))
        seen = np.bool_(trained.config.export.exclude_seen)
        requests += [
            ("serving_default", {"user": users}),
            ("recommend", {"user": users}),
            ("recommend", {"user": users, "k": k, "exclude_seen": seen, "exclude": [item] * batch}),
            ("user_embedding", {"user": users}),
            ("item_embedding", {"item": item * batch}),
            ("score", {"user": users, "item": item * batch}),
        ]
    return requests


def _metadata(trained: Trained, version: int, examples: list[bytes], index: dict, inputs: dict) -> dict:
    config, dataset = trained.config, trained.dataset
    return run_facts(trained, version) | {
        "users": dataset.tables["user"].model_dump(),
        "items": dataset.tables["item"].model_dump(),
        "recommended_items": len(trained.items.ids),
        "cold_items": len(trained.items.ids) - int(trained.items.in_histories.sum()),
        "max_k": config.export.max_k,
        "exclude_seen": config.export.exclude_seen,
        "index": index,
        "inputs": inputs,
        "no_score": NO_SCORE,
        # Keys are UTF-8; anything else survives the round trip as surrogates.
        "example_users": [key.decode("utf-8", "surrogateescape") for key in examples],
    }


def _inputs(trained: Trained, model: ServingModel) -> dict:
    """What requests may say of users, and by which features they may restrict the answer."""
    return {
        "history": "history" in model.state_inputs,
        "features": model.feature_forms,
        "where": [name.removeprefix(WHERE) for name in model.filter_inputs],
    }
