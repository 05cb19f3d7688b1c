"""Checks what was compiled and executed, and prints the results as Markdown.

python -m tests.tpu_aot.report DIRECTORY LABEL...
"""

import json
import os
import re
import sys

MB, GB = 1e6, 1e9
DENSE_TEMPORARY = 128 * MB  # of a step without tables; the whole matrix of logits would be 268 MB
# What a step takes beside the forecast, which is of tables in the engine: a part of it for inputs and towers,
# what the case says of larger dense layers (`dense`), and buffers of the lookups, so many times the rows
# that the whole slice looks up, on every SparseCore.
MARGIN = 1.01
BUFFERS = 8
ROUNDING = 0.001  # of the tables: a chip's last rows
PARITY = 1e-6
REPLICAS = 1e-5
_REFUSALS = {
    "too large": r"exceeds available HBM|Exceeded hbm capacity",
    "too many ids": r"No viable logical replica count",
}
_REASONS = [
    r"[^.,:]*\([\d.]+\w\) exceeds available HBM \([^)]*\)",
    r"Used [^ ]+ of [^ ]+ hbm",
    r"No viable logical replica count\D*max_nz_per_row = \d+",
]


def problems_of(result: dict) -> list[str]:
    """What is wrong with one compiled case; nothing is expected of XLA's default layout."""
    expect, error = result["expect"], result.get("error")
    if not result["layout"]:
        return []
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
    if not total(result) <= MARGIN * forecast + result["dense"] + buffers(result):
        found.append(
            f"{total(result)} bytes in all, the forecast is {forecast}, {result['dense']} of dense layers "
            f"and {buffers(result)} of buffers"
        )
    return found


def total(result: dict) -> int:
    """Bytes on a chip while the step runs."""
    return result["arguments"] + result["temporary"] + result["outputs"] - result["aliased"]


def buffers(result: dict) -> int:
    """Bytes that the buffers of a step's lookups may take on a chip."""
    rows = sum(4 * ids * width for ids, width in result["lookups"])
    return BUFFERS * result["sparse_cores"] * result["replicas"] * rows


def executed_problems(executed: dict) -> list[str]:
    """What is wrong with the programs that ran on the CPU."""
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


def dense_table(cases: list[dict[str, dict]]) -> list[str]:
    """Steps without tables; a case's results by label."""
    labels = list(cases[0])
    head = ["model", "replicas x rows", "chip", *(f"{label}: compiled in, temporary" for label in labels)]
    lines = [head]
    for results in cases:
        r = results[labels[0]]
        line = [r["model"], f"{r['replicas']} x {r['share']:,}", r["topology"].partition(":")[0]]
        for r in results.values():
            line.append("refused" if "error" in r else f"{r['seconds']:.1f} s, {r['temporary'] / MB:.1f} MB")
        lines.append(line)
    return _markdown(lines)


def tables_table(cases: list[dict[str, dict]]) -> list[str]:
    """Steps with their tables; a case's results by label."""
    labels = list(cases[0])
    head = ["slice", "model", "dim", "ids", "forecast"]
    lines = [head + [f"{label}: in place + other arguments + temporary" for label in labels]]
    for results in cases:
        r = results[labels[0]]
        ids = max(number for number, _ in r["lookups"])
        layout = "" if r["layout"] else ", default layout"
        line = [r["slice"], r["model"] + layout, str(r["dim"]), f"{ids:,}", f"{r['forecast'] / GB:.3f} GB"]
        lines.append(line + [_outcome(r) for r in results.values()])
    return _markdown(lines)


def _outcome(r: dict) -> str:
    if "error" in r:
        return f"refused: {reason(r['error'])}"
    sizes = (r["aliased"], r["arguments"] - r["aliased"], r["temporary"])
    return " + ".join(f"{size / GB:.3f}" for size in sizes) + " GB"


def reason(error: str) -> str:
    """The words of a refusal that say why; all of it when it says something else."""
    found = (re.search(pattern, error) for pattern in _REASONS)
    return next((match.group(0).strip() for match in found if match), " ".join(error.split())[:300])


def _markdown(lines: list[list[str]]) -> list[str]:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return [f"| {' | '.join(line)} |" for line in lines]


def _order(r: dict):
    return (r["model"], r["replicas"], r["slice"], r["dim"], r["share"], not r["layout"], r["topology"])


def main(directory: str, labels: list[str]) -> int:
    """Prints all tables; returns 1 if anything is wrong."""
    cases: dict[tuple, dict[str, dict]] = {}
    problems = []
    for label in labels:
        for r in _read(directory, label):
            cases.setdefault(_order(r), {})[label] = r
            problems += [f"{label}, {r['name']} for {r['topology']}: {p}" for p in problems_of(r)]
    ordered = [cases[key] for key in sorted(cases)]
    for title, table, with_tables in (
        ("Towers, loss and averages, rows as arguments", dense_table, False),
        ("Whole step, tables on SparseCores", tables_table, True),
    ):
        some = [c for c in ordered if bool(next(iter(c.values()))["arrays"]) == with_tables]
        print(f"**{title}**\n\n" + "\n".join(table(some)) + "\n")
    executed = _read(directory, "executed")
    lines = [["executed on the CPU", "largest difference"]]
    lines += [[f"100 steps of rows: {n}", f"{v:.1e}"] for n, v in executed["rows"].items()]
    lines.append(["two_tower on eight replicas and on one, relative", f"{executed['replicas']:.1e}"])
    print("\n".join(_markdown(lines)), flush=True)
    problems += executed_problems(executed)
    for problem in problems:
        print(f"FAILED {problem}", file=sys.stderr)
    return 1 if problems else 0


def _read(directory: str, label: str):
    with open(os.path.join(directory, f"results-{label}.json"), encoding="utf-8") as file:
        return json.load(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
