"""What a run must have in common with the checkpoints it resumes from. Without TensorFlow."""

from typing import Any

from configs.schema import RunConfig

DATASET = "dataset.fingerprint"
# Keys of optimizers and losses that old checkpoints lack; with these values they have no effect.
_YOUNGER = {"amsgrad": False, "l2_shrinkage": 0.0, "precision": "float32", "kind": "in_batch"}


def checkpoint_identity(config: RunConfig, fingerprint: str, num_steps: int | None) -> dict[str, Any]:
    """JSON values that a run must share with the checkpoints it resumes from, by config key.

    Args:
      config: the run.
      fingerprint: of the dataset.
      num_steps: steps of the run, which its schedule and averages depend on; None: not known.
    """
    tables = {name: config.table(name).model_dump(mode="json") for name in config.table_of_input.values()}
    for table in tables.values():
        # A run may change these: they affect how numbers are stored or summed, not the records.
        table.pop("engine", None)
        table.pop("placement", None)
        table.pop("gradient", None)
        table["optimizer"] = _lasting(table["optimizer"])
    model = config.model.model_dump(mode="json")
    if "loss" in model:
        model["loss"] = _lasting(model["loss"])
    return {
        DATASET: fingerprint,
        "model": model,
        "tables": tables,
        "optimizer": _lasting(config.optimizer.model_dump(mode="json")),
        "schedule": config.schedule.model_dump(mode="json"),
        "polyak": config.polyak.model_dump(mode="json"),
        "train.batch_size": config.train.batch_size,
        "train.clip_norm": config.train.clip_norm,
        "train.seed": config.train.seed,
        # None, as in checkpoints that lack them, if they have no effect.
        "train.window_days": config.train.window_days,
        "train.half_life_days": config.train.half_life_days,
        "number of steps": num_steps,
    }


def _lasting(section: dict[str, Any]) -> dict[str, Any]:
    """A section without younger keys that have no effect."""
    return {k: v for k, v in section.items() if k not in _YOUNGER or v != _YOUNGER[k]}


def first_difference(saved: dict[str, Any], now: dict[str, Any]) -> tuple[str, object, object] | None:
    """The first dotted config key whose values differ, with both values; None if all are equal.

    Args:
      saved: identity of a checkpoint; a missing key counts as None, here and in `now`.
      now: identity of the run.
    """
    for key in [*now, *(key for key in saved if key not in now)]:
        old, new = saved.get(key), now.get(key)
        if old == new:
            continue
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return key, old, new
        if old.get("kind") != new.get("kind"):  # other keys of different kinds cannot be compared
            return f"{key}.kind", old.get("kind"), new.get("kind")
        if found := first_difference(old, new):  # none: one has None where the other lacks the key
            inner, old, new = found
            return f"{key}.{inner}", old, new
    return None
