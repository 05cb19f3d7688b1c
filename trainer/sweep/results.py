"""What a sweep has found: trials.csv, a table and the importance of keys as text, and best.yaml."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from configs.load import dump_config
from configs.schema import RunConfig
from configs.sections.search.sweep import SweepConfig
from configs.system import storage
from configs.text import aligned
from trainer.report.facts import metric_names
from trainer.sweep.space import chosen_values, stored

TABLE_FILE, BEST_CONFIG_FILE = "trials.csv", "best.yaml"
_MOST_ROWS = 40  # of the table as text
_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    number: int
    state: str
    """complete; stopped: by the pruner; failed; or running."""
    value: float | None
    """Best value of the metric on valid; None: it is not known."""
    step: int | None
    """Step of that value, of complete trials."""
    steps: int | None
    """Steps done."""
    values: dict[str, Any]
    """By key of the space."""
    reason: str = ""
    """Why it failed."""

    def order(self, sign: float) -> tuple[int, float, int]:
        """Sorts complete trials first, then by value times `sign`, then by number."""
        value = math.inf if self.value is None else sign * self.value
        return list(_STATES.values()).index(self.state), value, self.number


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has found."""

    outcomes: list[Outcome]
    """The best ones first."""
    text: str
    """For people."""
    best_config: str | None
    """Path of best.yaml; None: it is not written yet."""


def outcome_of(sweep: SweepConfig, trial: FrozenTrial) -> Outcome:
    """From the study's trial."""
    facts = trial.user_attrs
    return Outcome(
        trial.number,
        _STATES[trial.state],
        trial.value,
        facts.get("best_step"),
        facts.get("steps"),
        chosen_values(sweep, trial.params),
        facts.get("reason", ""),
    )


def write_results(
    sweep: SweepConfig,
    metric: str,
    outcomes: Sequence[Outcome],
    importance: Mapping[str, float] | None = None,
    best: tuple[Outcome, RunConfig] | None = None,
    figures: dict[str, Any] | None = None,
) -> SweepResult:
    """Writes trials.csv, and best.yaml if the best trial is given.

    Args:
      sweep: the document.
      metric: by which trials are compared.
      outcomes: the best ones first.
      importance: of keys, as TrialStudy.importance; None: not computed yet.
      best: the best trial and its config.
      figures: of that trial on test, as in evaluate-test.json; None: test has no rows.
    """
    storage.write_bytes(storage.join(sweep.output, TABLE_FILE), _csv(sweep, metric, outcomes).encode())
    parts, path = [_table(sweep, metric, outcomes)], None
    if importance is not None:
        parts.append(_importance_text(importance))
    if best is not None:
        path = storage.join(sweep.output, BEST_CONFIG_FILE)
        header = _header(metric, outcomes, best[0], figures, path)
        content = "".join(f"# {line}\n" for line in header) + dump_config(best[1])
        storage.write_bytes(path, content.encode())
        parts.append("\n".join(header))
    return SweepResult(list(outcomes), "\n\n".join(parts), path)


def _csv(sweep: SweepConfig, metric: str, outcomes: Sequence[Outcome]) -> str:
    """By number of the trial; empty cells are not known."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", metric, "best_step", "steps", *sweep.space, "reason"])
    for one in sorted(outcomes, key=lambda one: one.number):
        cells = [one.number, one.state, one.value, one.step, one.steps]
        cells += [stored(one.values[key]) for key in sweep.space]
        writer.writerow(["" if cell is None else cell for cell in [*cells, one.reason]])
    return text.getvalue()


def _table(sweep: SweepConfig, metric: str, outcomes: Sequence[Outcome]) -> str:
    rows = [["trial", metric, "state", "steps", *sweep.space]]
    for one in outcomes[:_MOST_ROWS]:
        cells = [one.values[key] for key in sweep.space]
        rows.append(
            [
                str(one.number),
                "-" if one.value is None else f"{one.value:.4f}",
                one.state,
                "-" if one.steps is None else f"{one.steps:,}",
                *(f"{cell:.4g}" if isinstance(cell, float) else str(stored(cell)) for cell in cells),
            ]
        )
    more = len(outcomes) - _MOST_ROWS
    return aligned(rows, left=(2,)) + (f"\nand {more:,} more, see {TABLE_FILE}" if more > 0 else "")


def _importance_text(importance: Mapping[str, float]) -> str:
    if not importance:
        return "importance of keys: not known, too few trials have ended"
    rows = [["key", "importance"], *([key, f"{value:.3f}"] for key, value in importance.items())]
    return aligned(rows)


def _header(
    metric: str, outcomes: Sequence[Outcome], best: Outcome, figures: dict[str, Any] | None, path: str
) -> list[str]:
    """Lines about the best trial: what was tried, its figures, and what to run."""
    counts = {state: sum(one.state == state for one in outcomes) for state in _STATES.values()}
    tried = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
    found = [
        f"The best of {len(outcomes)} trials ({tried}): number {best.number}.",
        f"Valid: {metric} {best.value:.4f} at step {best.step:,}." if best.step else "",
        *_figures_lines(figures),
        f"Its run is trained: lazytower export --config {path}",
    ]
    return [line for line in found if line]


def _figures_lines(figures: dict[str, Any] | None) -> list[str]:
    """Of the served weights, a line for each task."""
    if figures is None:
        return ["Test has no rows."]
    lines = [line for line in figures["results"] if line["scorer"] == "model"]
    weights = lines[0]["weights"]
    found = []
    for line in lines:
        if line["weights"] == weights:
            task = f", task {line['task']}" if "task" in line else ""
            names = [name for name in metric_names([line]) if isinstance(line[name], float)]
            found.append(f"Test{task}: {', '.join(f'{name} {line[name]:.4f}' for name in names)}.")
    return [*found, f"Test protocol: {lines[0]['protocol']}"]
