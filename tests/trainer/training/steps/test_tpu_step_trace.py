"""The TPU's step traced for slices that do not exist: where its ops are, and how the engines are configured.

Golden files are rewritten by `LAZYTOWER_GOLDEN=1 pytest tests/trainer/training/steps/test_tpu_step_trace.py`;
read their diff.
"""

import collections
import functools
import os
import pathlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf.tpu import tpu_embedding_configuration_pb2
from tensorflow.python.ops import while_v2
from tensorflow.python.tpu.ops import tpu_ops

from configs.load import load_config, parse_config
from configs.system.tpu import tpu_slice
from tests.support.tpu_topology import fake_strategy
from trainer.data.bare_dataset import bare_dataset
from trainer.embeddings.engines.tensorcore import tpu_tables
from trainer.models.recommender import Recommender
from trainer.tpu.engines import TPU_ENGINES
from trainer.training.steps.tpu_step import TpuStep

pytestmark = pytest.mark.any_python

GOLDEN = pathlib.Path(__file__).parent / "golden"
USERS, ITEMS, DIM, SHARE, LENGTH = 25_000_000, 1_000_000, 64, 16, 5
EXTRA = 256
TOWER = {"layers": [32, 16], "dropout": 0.1}
SCORES = {"kind": "two_tower", "normalize": False, "history": {"pooling": "mean"}}
MODELS = {
    "two_tower": {
        **SCORES,
        "user_tower": {"inputs": ["user", "history"], **TOWER},
        "item_tower": {"inputs": ["item"], **TOWER},
    },
    "mixed": {
        **SCORES,
        "user_tower": {"inputs": ["user"], **TOWER},
        "item_tower": {"inputs": ["item"], **TOWER},
        "loss": {"extra_negatives": EXTRA},
    },
    "groups": {
        **SCORES,
        "user_tower": {"inputs": ["user"], **TOWER},
        "item_tower": {"inputs": ["item"], **TOWER},
        "loss": {"group": 2 * SHARE, "precision": "bfloat16"},
    },
    "dot_bias": {"kind": "dot_bias", "negatives": 3},
}

# Each model on each engine. What hosts and chips differ in does not depend on the model.
FIRST_ENGINE = [("v3-8", "two_tower"), ("v3-8", "dot_bias"), ("v4-16", "two_tower"), ("v4-16", "mixed")]
SPARSE_CORES = [("v5p-8", "two_tower"), ("v5p-8", "mixed"), ("v6e-4", "two_tower"), ("v6e-4", "dot_bias")]

SEQUENCE = {
    **SCORES,
    "user_tower": {"inputs": ["history"], "sequence": {"heads": 2, "dropout": 0.1}},
    "loss": {"extra_negatives": EXTRA},
}


def config_of(name: str, model: dict, tables=("user", "item")):
    sections = {
        "source": {"kind": "synthetic", "rows": 10, "users": 5, "items": 5},
        "dataset": {"path": "unused", "history_length": LENGTH},
        "model": model,
        "tables": {n: {"dim": DIM, "optimizer": {"learning_rate": 0.005}} for n in tables},
        "schedule": {"cooldown_fraction": 0},
        "polyak": {"decay": 0.999, "start_fraction": 0},
        "train": {"num_steps": 60, "batch_size": SHARE * tpu_slice(name).replicas},
        "device": {"kind": "tpu", "slice": name},
        "output": {"path": "unused"},
    }
    return parse_config(sections, "test")


def batch_of(step: TpuStep, model: str) -> dict:
    """A batch's specs, as the input of the step gives them."""
    plan, real, ids = step._plan, tf.float32, {}
    for table in plan.inputs:
        ids[table] = [plan.replicas, plan.ids_of_share(table)]
    columns = {"label": real} if model == "dot_bias" else {"item": tf.int32, "log_q": real}
    columns = {name: tf.TensorSpec([plan.replicas, SHARE], kind) for name, kind in columns.items()}
    columns["weight"] = tf.TensorSpec([plan.replicas, SHARE], real)
    if model == "two_tower":
        columns["history_mask"] = tf.TensorSpec([plan.replicas, SHARE, LENGTH], real)
    if model == "mixed":
        drawn = [plan.replicas, EXTRA // plan.replicas]
        columns |= {"negative/item": tf.TensorSpec(drawn, tf.int32), "negative/log_q": tf.TensorSpec(drawn)}
    return {
        "step": tf.TensorSpec([], tf.int64),
        "ids": {name: tf.TensorSpec(shape, tf.int32) for name, shape in ids.items()},
        "shares": {f"{name}_average": tf.TensorSpec(shape, real) for name, shape in ids.items()},
        "columns": columns,
    }


@functools.cache
def traced(name: str, model: str):
    """(step, graph of one step inside the loop) of a run on a slice."""
    dataset = bare_dataset({"user": USERS, "item": ITEMS})
    return trace(
        config_of(name, MODELS[model]), dataset, np.ones(ITEMS, np.int64), lambda step: batch_of(step, model)
    )


def trace(config, dataset, counts, specs_of):
    """(step, graph of one step inside the loop) of a run; specs_of(step): of a batch."""
    name = config.device.slice
    with (
        tf.Graph().as_default(),
        mock.patch.object(tpu_ops, "is_tpu_embedding_initialized", lambda *_: False),
    ):
        strategy = fake_strategy(name)
        with strategy.scope():
            recommender = Recommender(config, dataset, counts, 60, tpu_tables(config))
        step = TpuStep(config, recommender, 60, strategy, TPU_ENGINES[tpu_slice(name).engine])

        @tf.function
        def loop(batch, steps):
            done, total = tf.constant(0), tf.constant(0.0)
            while done < steps:
                loss, _ = step(batch)
                total += loss
                done += 1
            return total

        graph = loop.get_concrete_function(specs_of(step), tf.TensorSpec([], tf.int32)).graph
        [body] = [op for op in graph.get_operations() if op.type == "While"]
        return step, while_v2._get_graph(body, "body", "_body_graph")


def kinds_of(graph) -> collections.Counter:
    return collections.Counter(op.type for op in graph.get_operations())


def compare(path: pathlib.Path, text: str) -> None:
    if os.environ.get("LAZYTOWER_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"{path.name} is not what the step makes now"


def mlperf_config(name: str):
    """MLPerf's 26 tables on a slice."""
    path = pathlib.Path(__file__).parents[4] / "configs" / "criteo_mlperf_v5p_8.yaml"
    batch = SHARE * tpu_slice(name).replicas
    return load_config(str(path), [f"device.slice={name}", f"train.batch_size={batch}"])


def mlperf(name: str):
    """As `traced`, of MLPerf's model."""
    config = mlperf_config(name)
    numbers = [name for name in config.model.inputs if name not in config.table_of_input]

    def specs(step):
        each = [step._plan.replicas, SHARE]
        columns = dict.fromkeys(["label/label", "label/weight", *numbers], tf.TensorSpec(each))
        ids = dict.fromkeys(step._plan.inputs, tf.TensorSpec(each, tf.int32))
        return {"step": tf.TensorSpec([], tf.int64), "ids": ids, "shares": {}, "columns": columns}

    dataset = bare_dataset({table: config.ids_of(table).known_rows for table in config.tables})
    return trace(config, dataset, np.zeros(0, np.int64), specs)


def initializers(step: TpuStep) -> str:
    """How rows begin in the engine, as text; the product writes its own before the first step."""
    lines = []
    for name, feature in step._engine.features().items():
        table = feature.table
        slots = zip(table.optimizer._slot_names(), table.optimizer._slot_initializers(), strict=True)
        kinds = [("parameters", table.initializer), *slots]
        lines += [f"# {name}: {part} from {type(made).__name__} {made.get_config()}" for part, made in kinds]
    lines += [
        f"# {name}: {table.rows} records of {table.width} on each replica"
        for name, table in step._small.items()
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("name", "model"), FIRST_ENGINE)
def test_the_first_engine(name, model):
    step, graph = traced(name, model)
    slice_, kinds = tpu_slice(name), kinds_of(graph)
    # Ids leave each host for its own cores.
    enqueued = [op for op in graph.get_operations() if op.type == "EnqueueTPUEmbeddingArbitraryTensorBatch"]
    per_host = slice_.replicas // slice_.hosts
    job = "localhost" if slice_.hosts == 1 else "worker"
    assert sorted((op.device, op.get_attr("device_ordinal")) for op in enqueued) == sorted(
        (f"/job:{job}/replica:0/task:{host}/device:CPU:0", core)
        for host in range(slice_.hosts)
        for core in range(per_host)
    )
    # Once in the program that is replicated, with gradients for all that was received.
    assert kinds["RecvTPUEmbeddingActivations"] == kinds["SendTPUEmbeddingGradients"] == 1
    [metadata] = [op for op in graph.get_operations() if op.type == "TPUReplicateMetadata"]
    assert metadata.get_attr("num_replicas") == slice_.replicas
    inside = {"RecvTPUEmbeddingActivations", "SendTPUEmbeddingGradients", "CrossReplicaSum"}
    assert all(op.get_attr("_tpu_replicate") for op in graph.get_operations() if op.type in inside)
    [sent] = [op for op in graph.get_operations() if op.type == "SendTPUEmbeddingGradients"]
    assert sent.get_attr("N") == 4 and sent.get_attr("NN") == 1, "one learning rate changes"
    config = tpu_embedding_configuration_pb2.TPUEmbeddingConfiguration.FromString(sent.get_attr("config"))
    compare(GOLDEN / f"{name}-{model}.txt", initializers(step) + text_format.MessageToString(config))


@pytest.mark.parametrize(("name", "model"), SPARSE_CORES)
def test_sparse_cores(name, model):
    step, graph = traced(name, model)
    slice_, kinds = tpu_slice(name), kinds_of(graph)
    # Two tables and their averages, each looked up and updated once in the program.
    assert kinds["XlaSparseDenseMatmulWithStaticBufferSize"] == 4
    assert kinds["XlaSparseDenseMatmulGradWithAdamAndStaticBufferSize"] == 2
    assert kinds["XlaSparseDenseMatmulGradWithSgdAndStaticBufferSize"] == 2
    assert kinds["SortListOfSparseCoreCooTensors"] == 4 * slice_.sparse_cores
    on_host = {"ConvertToListOfSparseCoreCooTensors", "ConvertToSparseCoreCsrWrappedCooTensor"}
    for op in graph.get_operations():
        if op.type in on_host:
            assert op.get_attr("_xla_outside_compilation"), "the chips have no such op"
        if op.type.startswith("XlaSparseDenseMatmul"):
            share = step._plan.ids_of_share(op.get_attr("table_name").decode().removesuffix("_average"))
            assert op.get_attr("max_ids_per_sparse_core") == share // slice_.sparse_cores
        if op.type == "XlaSparseDenseMatmulGradWithAdamAndStaticBufferSize":
            assert not op.get_attr("use_sum_inside_sqrt")
    layouts = step._engine._embedding.embedding_layouts
    text = "".join(f"table {name}\n{layouts[name]}" for name in sorted(layouts))
    compare(GOLDEN / f"{name}-{model}.txt", initializers(step) + text)


def test_products_of_bfloat16_are_those_of_the_matrix_units():
    """From bfloat16 to float32; a group has the rows of two replicas."""
    _, graph = traced("v4-8", "groups")
    products = [op for op in everything_in(graph) if op.type == "BatchMatMulV3"]
    assert len(products) == 3
    for op in products:
        assert {value.dtype for value in op.inputs} == {tf.bfloat16} and op.outputs[0].dtype == tf.float32
        shape = [tuple(value.shape.as_list()) for value in (*op.inputs, *op.outputs)]
        assert any(2 * SHARE in sizes for sizes in shape) and all(8 * SHARE not in sizes for sizes in shape)


def everything_in(graph) -> list:
    """Operations of a graph and of the bodies of its loops."""
    found = list(graph.get_operations())
    bodies = [while_v2._get_graph(op, "body", "_body_graph") for op in found if op.type.endswith("While")]
    return found + [op for body in bodies for op in everything_in(body)]


def sequence(name: str):
    """As `traced`, of a model that reads the history in its order."""
    config = config_of(name, SEQUENCE, ["item"])

    def specs(step):
        each, drawn = [SHARE * LENGTH], [EXTRA // step._plan.replicas]
        shapes = {"item": each, "weight": each, "log_q": each, "history_mask": [SHARE, LENGTH]}
        shapes |= {"negative/item": drawn, "negative/log_q": drawn}
        ids = tf.TensorSpec([step._plan.replicas, step._plan.ids_of_share("item")], tf.int32)
        return {
            "step": tf.TensorSpec([], tf.int64),
            "ids": {"item": ids},
            "shares": {"item_average": tf.TensorSpec(ids.shape)},
            "columns": {
                name: tf.TensorSpec([step._plan.replicas, *shape], tf.int32 if "item" in name else tf.float32)
                for name, shape in shapes.items()
            },
        }

    dataset = bare_dataset({"user": USERS, "item": ITEMS})
    return trace(config, dataset, np.ones(ITEMS, np.int64), specs)


def _replicated(op) -> bool:
    try:
        return bool(op.get_attr("_tpu_replicate"))
    except ValueError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4-32", "v6e-4"])
def test_an_ordered_history(name):
    """All positions' items are looked up, beside the history; what decides about sizes stays on the host."""
    step, graph = sequence(name)
    assert step._plan.ids_of_share("item") == 2 * SHARE * LENGTH + EXTRA // step._plan.replicas
    inside = {op.type for op in graph.get_operations() if _replicated(op)}
    assert "BatchMatMulV2" in inside or "Einsum" in inside
    assert not inside & {"Where", "Unique", "BooleanMask", "PyFunc", "Assert"}
    summed = {op.inputs[0].dtype for op in graph.get_operations() if op.type == "CrossReplicaSum"}
    assert summed <= {tf.float32, tf.int32}


def test_nothing_that_is_gathered_is_wider_than_32_bits():
    """Sums over replicas do not support int64, and gathers of it would be slower."""
    _, graph = traced("v4-16", "two_tower")
    assert "AllToAll" not in kinds_of(graph)
    summed = {op.inputs[0].dtype for op in graph.get_operations() if op.type == "CrossReplicaSum"}
    assert summed == {tf.float32, tf.int32}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v4-32", "v6e-4"])
def test_many_tables(name):
    """Half of MLPerf's 26 tables are in the engine, the others are variables of the program."""
    step, graph = mlperf(name)
    kinds, config = kinds_of(graph), step._engine
    assert len(step._in_engine) == len(step._small) == len(config.tables) == 13
    # The gradients of small tables are summed over all replicas.
    shapes = [op.inputs[0].shape.as_list() for op in graph.get_operations() if op.type == "CrossReplicaSum"]
    assert all([table.rows, table.dim + 1] in shapes for table in step._small.values())
    assert all(op.get_attr("_tpu_replicate") for op in graph.get_operations() if op.type == "CrossReplicaSum")
    if not tpu_slice(name).sparse_cores:
        assert kinds["RecvTPUEmbeddingActivations"] == kinds["SendTPUEmbeddingGradients"] == 1
        [sent] = [op for op in graph.get_operations() if op.type == "SendTPUEmbeddingGradients"]
        assert sent.get_attr("N") == 13 and sent.get_attr("NN") == 1, "all tables share a learning rate"
        made = tpu_embedding_configuration_pb2.TPUEmbeddingConfiguration.FromString(sent.get_attr("config"))
        text = text_format.MessageToString(made)
    else:
        assert kinds["XlaSparseDenseMatmulWithStaticBufferSize"] == 13
        assert kinds["XlaSparseDenseMatmulGradWithAdagradAndStaticBufferSize"] == 13
        layouts = config._embedding.embedding_layouts
        text = "".join(f"table {table}\n{layouts[table]}" for table in sorted(layouts))
    compare(GOLDEN / f"{name}-mlperf.txt", initializers(step) + text)
