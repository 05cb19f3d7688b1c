"""Lowers the real training step of one replica to StableHLO; needs tensorflow-tpu, see scripts/tpu_aot.sh.

    python -m tests.tpu_aot.export DIRECTORY

Writes, for each case, NAME.mlir and NAME.json: arrays of tables (the last arguments and the last results),
replicas, the bytes that the forecast says, those of large dense layers, and ids and width of each table's
lookup on a replica.
"""

import dataclasses
import json
import os
import sys
import time

import tensorflow as tf

from configs.schema import RunConfig
from configs.system.tpu import tpu_slice
from tests.tpu_aot.arguments import Arguments
from tests.tpu_aot.cases import CASES, NUM_STEPS, Case, dataset_of, item_counts, run_config
from tests.tpu_aot.engines import HandedOver, TablesHandedOver
from tests.tpu_aot.references import write_references
from tests.tpu_aot.replica import SliceStandIn
from trainer.embeddings.engines.tensorcore import tpu_tables
from trainer.models.recommender import Recommender
from trainer.resources.forecast import TPU_COLUMNS, dense_bytes, forecast_tables, slice_bytes
from trainer.tpu.engines.base import AVERAGE
from trainer.training.steps.tpu_step import TpuStep


class Program:
    """The step of one replica as a function of arrays.

    Args:
      case: of which run.
    """

    def __init__(self, case: Case):
        self.config = run_config(case)
        self.dataset = dataset_of(self.config)
        self._slice = SliceStandIn(case.slice)
        self.replicas = self._slice.num_replicas_in_sync
        counts = item_counts(self.config)
        self._recommender = Recommender(self.config, self.dataset, counts, NUM_STEPS, tpu_tables(self.config))
        engine = TablesHandedOver if case.tables else HandedOver
        self._step = TpuStep(self.config, self._recommender, NUM_STEPS, self._slice, engine)
        self._variables = Arguments(self._state())
        self._own = self._own_specs(case.share)

    def _state(self) -> list[tf.Variable]:
        """What the device's part of the step reads and writes beside the tables."""
        state = [*self._step.dense_state.values(), self._step._optimizer._learning_rate]
        state += [table.records for table in self._step._small.values()]
        used = {id(v): v for v in state if v is not self._step.step and v is not self._step.guard.skipped}
        return list(used.values())

    def _own_specs(self, share: int) -> dict:
        plan, real = self._step._plan, tf.float32
        numbers = [name for name in self.config.model.inputs if name not in self.config.table_of_input]
        columns = {
            "two_tower": {"item": tf.int32, "weight": real, "log_q": real},
            "dot_bias": {"label": real, "weight": real},
            "ranking": dict.fromkeys(["label/label", "label/weight", *numbers], real),
        }[self.config.model.kind]
        averages = [name for name in self._step._engine.tables if name.endswith(AVERAGE)]
        small = {name: [plan.ids_of_share(name)] for name in self._step._small}
        return {
            "columns": {name: tf.TensorSpec([share], kind) for name, kind in columns.items()},
            "shares": {n: tf.TensorSpec([plan.ids_of_share(n.removesuffix(AVERAGE))]) for n in averages},
            "ids": {name: tf.TensorSpec(shape, tf.int32) for name, shape in small.items()},
        }

    def lookups(self) -> list[tuple[int, int]]:
        """(ids of a replica, values of a row, padded) of every table of the engine."""
        tables = self._step._engine.tables.values()
        return [(table.ids, -(-table.dim // TPU_COLUMNS) * TPU_COLUMNS) for table in tables]

    def lower(self) -> tuple[str, int]:
        """(StableHLO; how many of the last arguments, and last results, are arrays of tables)."""
        engine, variables, step = self._step._engine, self._variables, self._step
        fed = engine.arguments()
        scalars = [tf.TensorSpec([]), tf.TensorSpec([], tf.int32)]  # number of the step, replica
        specs = (scalars, self._own, variables.specs, fed)

        @tf.function(jit_compile=True)
        def device(*flat):
            (now, index), own, values, given = tf.nest.pack_sequence_as(specs, flat)
            with variables.given(values), self._slice.replica(index):
                loss, bad = step._replica(own, engine.take(given), now)
            return [loss, bad], variables.results, engine.results()

        flat = tf.nest.flatten(specs)
        text = device.experimental_get_compiler_ir(*flat)(stage="stablehlo", platform_name="TPU")
        return text, len(tf.nest.flatten(fed["tables"])) if "tables" in fed else 0


def _dense(config: RunConfig, share: int) -> int:
    """Bytes of dense layers before and after a ranking model's step, and of their outputs and gradients."""
    model = config.model
    width = sum(config.input_width(name) for name in config.table_of_input) + model.bottom[-1]
    crosses = model.interaction.layers * (2 * width + model.interaction.rank)
    values = sum(model.bottom) + crosses + model.bottom[-1] + width + sum(model.top)
    return 2 * dense_bytes(config) + 2 * 4 * share * values


def export(case: Case, directory: str) -> None:
    """Writes a case's two files."""
    started = time.monotonic()
    # tests/tpu_aot/topology.c gives it to the lowering, which would ask the chips.
    os.environ["LAZYTOWER_SPARSE_CORES"] = str(tpu_slice(case.slice).sparse_cores)
    program = Program(case)
    text, arrays = program.lower()
    forecast, slice_ = forecast_tables(program.config, program.dataset), tpu_slice(case.slice)
    forecast = [table for table in forecast if table.placement == "engine"]
    facts = {
        **dataclasses.asdict(case),
        "name": case.name,
        "arrays": arrays,
        "replicas": program.replicas,
        "sparse_cores": slice_.sparse_cores,
        "forecast": slice_bytes(forecast, slice_)[0] if arrays else 0,
        "dense": _dense(program.config, case.share) if case.model == "ranking" else 0,
        "lookups": program.lookups(),
    }
    with open(os.path.join(directory, case.name + ".mlir"), "w", encoding="utf-8") as file:
        file.write(text)
    with open(os.path.join(directory, case.name + ".json"), "w", encoding="utf-8") as file:
        json.dump(facts, file, indent=1)
    print(f"exported {case.name}: {len(text) / 1e6:.1f} MB, {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    write_references(os.path.join(sys.argv[1], "references.npz"))
    for each in CASES:
        export(each, sys.argv[1])
