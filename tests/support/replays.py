"""Golden examples replayed in this process, which saves the start of another one."""

import json
from unittest import mock

import numpy as np

from trainer.data.chain.catalogs import catalog_blocks
from trainer.serving.export import Golden
from trainer.serving.golden import golden_examples
from trainer.serving.replay import load, replay, replay_predictions


def replay_here(model: str, golden: Golden) -> None:
    """In place of trainer.serving.export.replay_golden. Raises Difference."""
    examples = json.loads(json.dumps(golden.examples()))
    ask = replay_predictions if "predictions" in examples else replay
    ask(load(model, golden.op_library), examples)


def export_here(config) -> str:
    """trainer.serving.export.export, but for the fresh process."""
    from trainer.serving import export

    with mock.patch.object(export, "replay_golden", replay_here):
        return export.export(config)


def golden_of(trained) -> dict:
    """golden_examples of an open model, its weights as they were exported."""
    blocks = catalog_blocks(trained.dataset, "user", [])
    listed = np.unique(np.concatenate([block.ids for block in blocks]))
    with trained.recommender.averaged_dense():
        return golden_examples(trained, listed)
