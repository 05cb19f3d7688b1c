"""Golden examples replayed in this process, which saves the start of another one."""

import json
from unittest import mock

from trainer.serving.replay import replay, replay_predictions


def replay_here(model: str, golden: str) -> None:
    """In place of trainer.serving.export.replay_golden. Raises Difference."""
    with open(golden, encoding="utf-8") as file:
        examples = json.load(file)
    (replay_predictions if "predictions" in examples else replay)(model, examples)


def export_here(config) -> str:
    """trainer.serving.export.export, but for the fresh process."""
    from trainer.serving import export

    with mock.patch.object(export, "replay_golden", replay_here):
        return export.export(config)
