"""From a checkpoint of a ranking model to a SavedModel's files, with one copy of the weights in memory."""

import tensorflow as tf
from tensorflow.python.saved_model import fingerprinting_utils

from configs.sections.ranking import RankingConfig
from trainer.data.chain.parsing import OWNERS
from trainer.evaluation.trained import Trained
from trainer.serving.inputs.history import HISTORY
from trainer.serving.predictions.golden import SampleRequest
from trainer.serving.predictions.knowledge import load_knowledge
from trainer.serving.predictions.model import CLASSIFY, PredictionModel, ServedTask
from trainer.serving.replay import as_examples, empty_input, input_tensor
from trainer.serving.saved_model import run_facts, save_module, write_metadata
from trainer.serving.warmup import write_warmup_requests
from trainer.serving.weights import served_lookup, tables_of

_WARMUP_ROWS = (1, 8)


def write_predictions(
    trained: Trained, path: str, version: int, requests: list[SampleRequest]
) -> dict[str, str]:
    """Writes the SavedModel, its warm-up requests and lazytower.json.

    Args:
      trained: the open checkpoint of a ranking model, dense weights already as they shall be served.
      path: directory to make.
      version: its number, for lazytower.json.
      requests: of which warm-up requests are made.

    Returns:
      Signatures of Classify and Regress with their tasks, which `golden_predictions` takes.

    Raises:
      ExportError: weights are not finite, or keys cannot be exported.
      DataError: the dataset cannot be read.
    """
    model = _prediction_model(trained)
    save_module(model, path)
    _name_methods(path, list(model.task_of_signature))
    write_warmup_requests(path, _warmup_requests(requests[0], model))
    write_metadata(path, _metadata(trained, version, model))
    return model.task_of_signature


def _prediction_model(trained: Trained) -> PredictionModel:
    recommender, options = trained.recommender, trained.config.model
    assert isinstance(options, RankingConfig)
    known = load_knowledge(trained)
    tables = tables_of(trained, recommender.model.inputs)
    return PredictionModel(
        known.keys,
        known.inputs,
        known.reads_ids,
        served_lookup(recommender, tables, recommender.model.inputs),
        recommender.model.predictions,
        [ServedTask(task.name, task.loss == "bce") for task in options.tasks],
        [*tables.values(), *recommender.dense_variables],
    )


def _name_methods(path: str, names: list[str]) -> None:
    """Marks signatures as those of Classify and Regress: tf.saved_model.save calls all of them Predict's, and
    TensorFlow Serving refuses its Classify and Regress requests then."""
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(path)
    for name in names:
        form = name.startswith(CLASSIFY)
        method = tf.saved_model.CLASSIFY_METHOD_NAME if form else tf.saved_model.REGRESS_METHOD_NAME
        updater.replace_method_name(name, method, tags="serve")
    updater.save()
    # The file beside it has a checksum of the file that was changed; nothing public writes it.
    fingerprinting_utils.write_fingerprint(path)


def _warmup_requests(request: SampleRequest, model: PredictionModel) -> list[tuple[str, dict]]:
    """`score` and `predict_examples` once per batch size, with values and without."""
    given, specs = request.inputs, model.specs
    found: list[tuple[str, dict]] = [("serving_default", {})]
    for rows in _WARMUP_ROWS:
        part = {spec.name: given.get(spec.name, empty_input(spec))[:rows] for spec in specs}
        examples = as_examples({spec.name: spec for spec in specs}, part)
        found.append(("score", {spec.name: input_tensor(spec, part[spec.name]) for spec in specs}))
        found.append(("predict_examples", {"examples": examples}))
    return found


def _metadata(trained: Trained, version: int, model: PredictionModel) -> dict:
    dataset, options = trained.dataset, trained.config.model
    assert isinstance(options, RankingConfig)
    owners = {f"{of}s": dataset.tables[of].model_dump() for of in OWNERS if of in dataset.tables}
    names = [spec.name for spec in model.specs]
    inputs = {name: name in names for name in (*OWNERS, HISTORY)}
    forms = {one.feature: one.form for one in model.feature_inputs}
    kinds = {one.feature: one.info.kind for one in model.feature_inputs}
    dims = {one.feature: one.info.dim for one in model.feature_inputs if one.info.dim}
    return run_facts(trained, version) | {
        **owners,
        "tasks": [task.model_dump() for task in options.tasks],
        "signatures": model.task_of_signature,
        "keep_negatives": dataset.keep_negatives,
        "inputs": inputs | {"features": forms, "kinds": kinds, "dims": dims},
    }
