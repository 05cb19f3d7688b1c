"""Holds what was compiled and executed to what must be true, and prints it as Markdown.

    python -m tests.tpu_aot.report DIRECTORY LABEL...
"""

import json
import os
import re
import sys

MB, GB = 1e6, 1e9
DENSE_TEMPORARY = 256 * MB  # of a step without tables: 256 rows of logits against 8,192 items are 8 MB
# All bytes on a chip beside the forecast, which is of tables; trainer.forecast.MARGIN is the machine's.
MARGIN = 1.05
ROUNDING = 0.001  # of the tables: a chip's last rows
PARITY = 1e-6
REPLICAS = 1e-5
_REFUSALS = {"too large": r"exceeds available HBM|[Rr]an out of memory", "too many ids": r"No viable logical replica count"}


def problems_of(result: dict) -> list[str]:
    """What is not as it must be with one compiled case."""
    expect, error = result["expect"], result.get("error")
    if expect in _REFUSALS:
        if error is None:
            return ["compiled, and must be refused"]
        return [] if re.search(_REFUSALS[expect], error) else [f"refused for another reason: {error}"]
    if error is not None:
        return [error]
    if not result["arrays"]:
        return [] if result["temporary"] <= DENSE_TEMPORARY else [f"{result['temporary']} temporary bytes"]
    found, forecast = [], result["forecast"]
    if not 0 <= result["aliased"] - forecast <= ROUNDING * forecast:
        found.append(f"{result['aliased']} bytes are updated in place, the tables are {forecast}")
    if expect == "fits" and result["layout"] and total(result) > MARGIN * forecast:
        found.append(f"{total(result)} bytes in all, the forecast is {forecast}")
    return found


def total(result: dict) -> int:
    """Bytes on a chip while the step runs."""
    return result["arguments"] + result["temporary"] + result["outputs"] - result["aliased"]


def executed_problems(executed: dict) -> list[str]:
    """What is not as it must be with the programs that ran on the CPU."""
    found = [
        f"{name}: {value:.1e} apart"
        for name, value in executed["rows"].items()
        if name != "moved by" and not value <= PARITY
    ]
    if not executed["rows"]["moved by"] > 1000 * PARITY:
        found.append("rows have hardly moved")
    if not executed["replicas"] <= REPLICAS:
        found.append(f"eight replicas and one: {executed['replicas']:.1e} apart")
    return found


def dense_table(results: list[dict]) -> list[str]:
    """Steps without tables."""
    lines = [
        "| model | replicas x rows | chip | compiled in | temporary | Gflop |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["model"], r["replicas"], r["topology"])):
        start = f"| {r['model']} | {r['replicas']} x {r['share']:,} | {r['topology'].partition(':')[0]} "
        if "error" in r:
            lines.append(f"{start}| refused | | |")
            continue
        facts = f"{r['seconds']:.1f} s | {r['temporary'] / MB:.1f} MB | {r['flops'] / GB:.2f}"
        lines.append(f"{start}| {facts} |")
    return lines


def tables_table(results: list[dict]) -> list[str]:
    """Steps with their tables."""
    lines = [
        "| slice, model, dim | ids of a table on each chip | forecast | in place | all arguments | temporary | in |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        each = r["share"] * (5 if r["model"] == "dot_bias" else 1)
        layout = "" if r["layout"] else ", default layout"
        start = f"| {r['slice']} {r['model']} x {r['dim']}{layout} | {each:,} | {r['forecast'] / GB:.3f} GB "
        if "error" in r:
            lines.append(f"{start}| refused: {message(r['error'])} | | | {r['seconds']:.0f} s |")
            continue
        places = [f"{r[key] / GB:.3f} GB" for key in ("aliased", "arguments", "temporary")]
        lines.append(f"{start}| {' | '.join(places)} | {r['seconds']:.0f} s |")
    return lines


def message(error: str) -> str:
    """The sentence of a refusal that says why."""
    text = re.sub(r"\s+", " ", error)
    reason = re.search(r"[^:.]*(exceeds available HBM \([^)]*\)|No viable logical replica count.*)", text)
    words = (reason.group(0) if reason else text).strip()
    return re.sub(r" with metadata: (max_nz_per_row = \d+).*?(\w+ = \d+\)?)$", r", \1 ... \2", words)[:200]


def main(directory: str, labels: list[str]) -> int:
    """Prints all tables; 1 when anything is not as it must be."""
    problems = []
    for label in labels:
        results = _read(directory, label)
        dense = [r for r in results if not r["arrays"]]
        print(f"### {label}\n\nWithout tables:\n")
        print("\n".join(dense_table(dense)), "\n\nWith tables on SparseCores:\n", sep="")
        print("\n".join(tables_table([r for r in results if r["arrays"]])), "\n", sep="")
        names = [f"{label}, {r['name']} for {r['topology']}" for r in results]
        problems += [f"{n}: {p}" for n, r in zip(names, results, strict=True) for p in problems_of(r)]
    executed = _read(directory, "executed")
    print("| executed on the CPU | largest difference |\n|---|---|")
    for name, value in executed["rows"].items():
        print(f"| rows by the program's own update, 100 steps: {name} | {value:.1e} |")
    print(f"| two_tower, eight replicas and one, relative | {executed['replicas']:.1e} |")
    problems += executed_problems(executed)
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def _read(directory: str, label: str):
    with open(os.path.join(directory, f"results-{label}.json"), encoding="utf-8") as file:
        return json.load(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
