"""libtpu's compiler without chips; needs jax and libtpu, see scripts/tpu_aot.sh.

    python -m tests.tpu_aot.compiler DIRECTORY LABEL

Compiles every case of the directory (tests/tpu_aot/export.py) with the libtpu that TPU_LIBRARY_PATH names,
jax's own without it, and writes what comes out to results-LABEL.json.
"""

import glob
import json
import os
import sys
import time

import jax
import numpy as np
from jax._src.interpreters import mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax.experimental import topologies

# How SparseCores want tables: row after row, in tiles of 8 values.
LAYOUT = "{1,0:T(8)}"


def read(path: str, arrays: int = 0, layout: str | None = LAYOUT) -> ir.Module:
    """A program whose last `arrays` arguments are overwritten by its last results.

    Args:
      path: of StableHLO text.
      arrays: how many.
      layout: of these in memory; None: XLA's default.
    """
    context = mlir.make_ir_context()
    with context, open(path, encoding="utf-8") as file:
        module = ir.Module.parse(file.read())
        main = next(
            op for op in module.body.operations if ir.StringAttr(op.attributes["sym_name"]).value == "main"
        )
        kind = ir.FunctionType(ir.TypeAttr(main.attributes["function_type"]).value)
        inputs, results = [{} for _ in kind.inputs], [{} for _ in kind.results]
        for back in range(1, arrays + 1):
            assert kind.inputs[-back] == kind.results[-back], f"{path}: tables are not the last arguments"
            place = len(results) - back
            inputs[-back]["tf.aliasing_output"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), place)
            if layout:
                inputs[-back]["mhlo.layout_mode"] = results[-back]["mhlo.layout_mode"] = ir.StringAttr.get(
                    layout
                )
        main.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(a) for a in inputs])
        main.attributes["res_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(a) for a in results])
    return module


def compile_for(module: ir.Module, replicas: int, topology: str) -> dict:
    """Compiles a program for some chips.

    Returns:
      Seconds, and as the compiler says bytes on a chip (arguments, outputs, aliased, temporary) and flops,
      or its `error`.
    """
    # A slice smaller than a usual host's part has to say so.
    bounds = {"chips_per_host_bounds": (1, 1, 1)} if topology.endswith(":1x1") else {}
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology, **bounds).devices[
        :replicas
    ]
    assert len(devices) == replicas, f"{topology} has {len(devices)} devices, not {replicas}"
    options = xla_client.CompileOptions()
    options.num_replicas, options.num_partitions = replicas, 1
    assignment = np.array([[device.id] for device in devices])
    options.device_assignment = xla_client.DeviceAssignment.create(assignment)
    started = time.monotonic()
    try:
        with module.context:
            compiled = devices[0].client.compile(module, xla_client.DeviceList(tuple(devices)), options)
    except jax.errors.JaxRuntimeError as error:
        return {"seconds": time.monotonic() - started, "error": str(error)}
    memory, cost = compiled.get_compiled_memory_stats(), compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return {
        "seconds": time.monotonic() - started,
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "flops": cost["flops"],
    }


def compile_all(directory: str) -> list[dict]:
    """The facts of every case for every topology, with what `compile_for` says."""
    results = []
    for path in sorted(glob.glob(os.path.join(directory, "*.json"))):
        if os.path.basename(path).startswith("results-"):
            continue
        with open(path, encoding="utf-8") as file:
            facts = json.load(file)
        layouts = [LAYOUT, None] if facts["default_layout"] else [LAYOUT]
        for topology in facts["topologies"]:
            for layout in layouts:
                module = read(path.removesuffix("json") + "mlir", facts["arrays"], layout)
                found = compile_for(module, facts["replicas"], topology)
                results.append({**facts, "topology": topology, "layout": layout, **found})
                outcome = "refused" if "error" in found else "compiled"
                print(f"{outcome} {facts['name']} for {topology}: {found['seconds']:.1f} s", flush=True)
    return results


if __name__ == "__main__":
    found = compile_all(sys.argv[1])
    with open(os.path.join(sys.argv[1], f"results-{sys.argv[2]}.json"), "w", encoding="utf-8") as out:
        json.dump(found, out, indent=1)
