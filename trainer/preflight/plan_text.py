"""The plan of a run, or of a batch output, as text."""

from typing import Any

from configs.text import aligned, size_text
from trainer.resources.hosts import host_text


def format_plan(plan: dict) -> str:
    """Tables, memory, checkpoints, time and slices as text; see trainer.preflight.plan.make_plan."""
    parts = [_tables(plan), _facts(plan)]
    if plan["slices"]:
        parts += [_placement(plan["placement"]), _slices(plan["slices"])]
    if not plan["prepared"]:
        parts.append(f"{plan['dataset']}: no dataset yet; run `lazytower prepare` to know all figures")
    return "\n\n".join(parts)


def format_score_plan(plan: dict[str, Any]) -> str:
    """The plan as text; see trainer.batch.forecast.make_score_plan."""
    memory, rate = plan["memory"], plan["users_per_second"]
    text = f"{_span(plan['seconds'])}: {plan['start_seconds']:.1f} s until the first users are written"
    output = f"{size_text(plan['bytes'])} in {plan['files']:,} files"
    needed = f"{size_text(memory['peak_bytes'])} at the peak, however many users there are"
    lines = [
        ["model", plan["model"]],
        ["users", f"{plan['users']:,}, the best {plan['k']:,} of {plan['items']:,} items for each"],
        ["output", f"{output}, {plan['bytes_per_user']:,.0f} bytes a user"],
        ["memory", f"{needed}; {size_text(memory['free_bytes'])} are free ({memory['limit']})"],
        ["time", text + ("" if rate is None else f", then {rate:,.0f} users/s")],
    ]
    return aligned(lines, left=(0, 1))


def _tables(plan: dict) -> str:
    names = ("weight", "slots", "average", "last_step", "total")
    rows = [["table", "rows", "dim", *(name.replace("_", " ") for name in names)]]
    for table in plan["tables"]:
        count = "?" if table["rows"] is None else f"{table['rows']:,}"
        sizes = [size_text(table[name]) for name in names]
        rows.append([table["name"], count, str(table["dim"]), *sizes])
    columns = [[table[name] for table in plan["tables"]] for name in names]
    sums = (None if None in values else sum(values) for values in columns)
    rows.append(["all", "", "", *map(size_text, sums)])
    return aligned(rows)


def _facts(plan: dict) -> str:
    memory, saved, least = plan["memory"], plan["checkpoints"], "" if plan["complete"] else "at least "
    text = f"{least}{size_text(memory['peak_bytes'])} at the peak"
    lines = [["memory", f"{text}, {size_text(memory['free_bytes'])} are free ({memory['limit']})"]]
    if plan["hosts"] is not None:
        lines.append(["hosts", host_text(plan["hosts"])])
    text = f"{least}{size_text(saved['bytes'])} each when full, room for {saved['most']:g} of them"
    if saved["free_bytes"] is not None:
        text += f", {size_text(saved['free_bytes'])} of disk are free"
    if saved["seconds_each"] is not None:
        text += f"; {saved['seconds_each']:,.1f} s each at {saved['bytes_per_second'] / 1e6:,.0f} MB/s"
    lines.append(["checkpoints", text])
    if plan["steps"] is not None:
        per_epoch = f", {plan['steps_per_epoch']:,} per epoch" if plan["steps_per_epoch"] else ""
        lines.append(["steps", f"{plan['steps']:,} of {plan['batch_size']:,} rows{per_epoch}"])
    if plan["started_from"] is not None:
        lines.append(["starts from", plan["started_from"]])
    if plan["step_seconds"] is not None:
        lines += _time(plan)
    return aligned(lines, left=(0, 1))


def _time(plan: dict) -> list[list[str]]:
    seconds, saved = plan["step_seconds"], plan["checkpoints"]
    rate = plan["batch_size"] / seconds
    lines = [["speed", f"{rate:,.0f} examples/s, {1000 * seconds:,.1f} ms per step"]]
    text = f"{_span(plan['steps'] * seconds)} of training"
    if saved["seconds_each"] is not None:
        text += f", {_span(saved['number'] * saved['seconds_each'])} for {saved['number']:,} checkpoints"
    return [*lines, ["time", f"{text}; plus evaluations"]]


def _span(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def _placement(placement: dict) -> str:
    """Where a TPU keeps what is trained."""
    places = {"engine": ("in the engine", "on all chips together"), "tensorcore": ("on TensorCores", _EACH)}
    lines = []
    for place, (title, whose) in places.items():
        group = placement[place]
        if group["tables"]:
            rows = "?" if group["rows"] is None else f"{group['rows']:,}"
            text = f"{len(group['tables'])} tables, {rows} rows, {size_text(group['bytes'])} {whose}"
            lines.append([title, f"{text}: {', '.join(group['tables'])}"])
    if placement["dense_bytes"]:
        lines.append(["dense layers", f"{size_text(placement['dense_bytes'])} {_EACH}"])
    return aligned(lines, left=(0, 1))


_EACH = "on each replica"


def _slices(slices: list[dict]) -> str:
    rows = [["slice", "chips", "needed per chip", "a chip has", ""]]
    for facts in slices:
        verdict = {True: "fits", False: "does not fit", None: "unknown"}[facts["fits"]]
        verdict += f": {facts['reason']}" if facts["reason"] else ""
        sizes = [size_text(facts["needed_per_chip"]), size_text(facts["bytes_per_chip"])]
        rows.append([facts["name"], f"{facts['chips']:,}", *sizes, verdict])
    return aligned(rows, left=(0, -1))
