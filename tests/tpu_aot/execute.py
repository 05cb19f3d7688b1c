"""The exported programs, executed on the CPU by jax; see scripts/tpu_aot.sh.

    python -m tests.tpu_aot.execute DIRECTORY

Writes results-executed.json: the largest differences of rows under the TPU's own row updates from TF-Addons
and from row records, and of eight replicas from one.
"""

import json
import os
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir

from tests.tpu_aot.compiler import read

jax.config.update("jax_enable_x64", True)  # Keras counts steps in int64
DECAY = 0.95  # as tests/tpu_aot/references.py


def loaded(module: ir.Module, replicas: int = 1):
    """A program made ready on `replicas` CPU devices."""
    devices = jax.devices("cpu")[:replicas]
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, 1
    assignment = np.array([[device.id] for device in devices])
    options.device_assignment = xla_client.DeviceAssignment.create(assignment)
    with module.context:
        return devices[0].client.compile_and_load(module, xla_client.DeviceList(tuple(devices)), options)


def row_update(module: ir.Module, kind: str):
    """How a step's program has SparseCores update a row: a function of [1, dim] arrays to a list of them."""
    with module.context:
        text = next(
            str(op)
            for op in module.body.operations
            if f"{kind}_optimizer_builder" in ir.StringAttr(op.attributes["sym_name"]).value
        )
        name = text.partition("@")[2].partition("(")[0]
        public = text.replace(f"func.func private @{name}", "func.func public @main")
        function = loaded(ir.Module.parse(f"module @m {{\n{public}\n}}"))
    return lambda *arrays: [np.asarray(a) for a in function.execute([jax.device_put(a) for a in arrays])]


def rows_by_the_tpu(module: ir.Module, told) -> np.ndarray:
    """Records float32 [rows, 4 dim + 1] after the steps of references.npz, updated as SparseCores would."""
    adam, sgd = row_update(module, "adam"), row_update(module, "sgd")
    weights = told["weights"]
    rows, dim = weights.shape

    def full(value) -> np.ndarray:
        return np.full([1, dim], value, np.float32)

    records = [[w[None], full(0), full(0), w[None]] for w in weights]  # weight, m, v, average
    last = np.zeros([rows, 1], np.float32)
    for step, (ids, gradients) in enumerate(zip(told["ids"], told["gradients"], strict=True), start=1):
        rate, shares = full(told["rates"][step - 1]), told["shares"][step - 1]
        for row in np.unique(ids):
            here = ids == row
            weight, m, v, average = records[row]
            # Each lookup of the row sends a gradient; SparseCores sum them.
            behind = np.sum([(average - weight) * share for share in shares[here]], axis=0, dtype=np.float32)
            (average,) = sgd(behind, average, full(1))
            gradient = gradients[here].sum(axis=0, dtype=np.float32)[None]
            records[row] = [*adam(gradient, weight, m, v, rate), average]
            last[row] = step
    weight, m, v, average = (np.concatenate(column) for column in zip(*records, strict=True))
    # What trainer/tpu/ledger.py adds when a checkpoint is written: the row's last step itself.
    average = np.where(last > 0, average + np.float32(1 - DECAY) * (weight - average), average)
    return np.concatenate([weight, m, v, average, last], axis=1)


def row_differences(directory: str) -> dict:
    """Largest absolute differences, by part of the record, from TF-Addons and from row records."""
    module = read(os.path.join(directory, "tables-v6e-4-two_tower-2048x64.mlir"))
    with np.load(os.path.join(directory, "references.npz")) as file:
        told = dict(file)
    found, dim = rows_by_the_tpu(module, told), told["weights"].shape[1]
    ends = {"weight": dim, "m": 2 * dim, "v": 3 * dim, "average": 4 * dim, "last step": 4 * dim + 1}
    differences = {"moved by": float(np.abs(found[:, :dim] - told["weights"]).max())}
    for reference, name in (("addons", "TF-Addons"), ("rows", "row records")):
        off, start = np.abs(found - told[reference]), 0
        for part, end in ends.items():
            differences[f"{part}, {name}"] = float(off[:, start:end].max())
            start = end
    return differences


def replica_difference(directory: str) -> float:
    """Largest difference between two_tower's step on eight replicas and on one, relative to the largest value
    of each result: loss, towers, their slots and averages, gradients of rows."""
    one = read(os.path.join(directory, "dense-v6e-1-two_tower-8192x64.mlir"))
    eight = read(os.path.join(directory, "dense-v3-8-two_tower-1024x64.mlir"))
    whole = batch(shapes(one))
    alone = [np.asarray(a) for a in loaded(one).execute([jax.device_put(a) for a in whole])]
    mesh = jax.sharding.Mesh(np.array(jax.devices("cpu")), "replica")
    arguments = []
    for place, (value, (shape, _)) in enumerate(zip(whole, shapes(eight), strict=True)):
        cut = value.shape != shape
        parts = np.split(value, 8) if cut else [value] * 8
        if place == INDEX:
            parts = list(np.arange(8, dtype=np.int32))
        placed = [jax.device_put(part, device) for part, device in zip(parts, mesh.devices, strict=True)]
        spec = jax.sharding.PartitionSpec("replica") if cut else jax.sharding.PartitionSpec()
        sharding = jax.sharding.NamedSharding(mesh, spec)
        arguments.append(jax.make_array_from_single_device_arrays(value.shape, sharding, placed))
    results = loaded(eight, 8).execute_sharded(arguments).disassemble_into_single_device_arrays()
    worst = 0.0
    for expected, parts in zip(alone, results, strict=True):
        parts = [np.asarray(part) for part in parts]
        found = parts[0] if parts[0].shape == expected.shape else np.concatenate(parts)
        if found.dtype == bool:
            assert not (found | expected).any(), "a value is not finite"
            continue
        largest = np.abs(expected).max(initial=1e-30)
        worst = max(worst, float(np.abs(found.astype(np.float64) - expected).max() / largest))
    return worst


NOW, INDEX = 0, 1  # arguments of every program: number of the step, replica


def shapes(module: ir.Module) -> list[tuple]:
    """(shape, NumPy dtype) of a program's arguments."""
    with module.context:
        main = next(
            op for op in module.body.operations if ir.StringAttr(op.attributes["sym_name"]).value == "main"
        )
        types = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value).inputs
        types = [ir.RankedTensorType(kind) for kind in types]
        names = {"f32": np.float32, "i32": np.int32, "i64": np.int64}
        return [(tuple(kind.shape), names[str(kind.element_type)]) for kind in types]


def batch(arguments: list[tuple]) -> list[np.ndarray]:
    """Values for a program: normal rows of tables; slots must not be negative, and are small beside
    gradients, as all other variables; items repeat."""
    draw, values = np.random.default_rng(1), []
    for shape, dtype in arguments:
        if dtype == np.float32:
            rows = len(shape) == 2 and shape[0] >= 8192
            drawn = draw.normal(scale=0.1, size=shape) if rows else draw.uniform(1e-4, 1e-3, shape)
            values.append(np.asarray(drawn, dtype))
        else:
            values.append(np.asarray(draw.integers(0, 1000, shape) if shape else 0, dtype))
    values[NOW] = np.float32(5000.0)
    return values


def main(directory: str) -> None:
    """Writes results-executed.json."""
    found = {"rows": row_differences(directory), "replicas": replica_difference(directory)}
    with open(os.path.join(directory, "results-executed.json"), "w", encoding="utf-8") as file:
        json.dump(found, file, indent=1)
    print(f"executed: {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
