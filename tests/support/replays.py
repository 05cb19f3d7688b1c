"""Golden examples replayed in this process, which saves the start of another one."""

import json

from trainer.serving.replay import replay, replay_predictions


def replay_here(model: str, golden: str) -> None:
    """In place of trainer.serving.export.replay_golden. Raises Difference."""
    with open(golden, encoding="utf-8") as file:
        examples = json.load(file)
    (replay_predictions if "predictions" in examples else replay)(model, examples)
