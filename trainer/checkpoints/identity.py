"""What a run and the checkpoints it resumes from must have in common. Without TensorFlow."""

from configs.schema import RunConfig

# Keys of optimizers that checkpoints may be older than; at these values they change nothing.
_YOUNGER = {"amsgrad": False, "l2_shrinkage": 0.0}


def checkpoint_identity(config: RunConfig, fingerprint: str, num_steps: int) -> dict:
    """What a run must share with the checkpoints it resumes from, by config key.

    Args:
      config: the run.
      fingerprint: of the dataset.
      num_steps: steps of the run, which its schedule and averages depend on.
    """
    tables = {name: config.table(name).model_dump(mode="json") for name in config.table_of_input.values()}
    for table in tables.values():
        # They change how numbers are held or summed, not the numbers nor their form; a run may change them.
        table.pop("engine", None)
        table.pop("gradient", None)
        table["optimizer"] = _optimizer(table["optimizer"])
    return {
        "dataset.fingerprint": fingerprint,
        "model": config.model.model_dump(mode="json"),
        "tables": tables,
        "optimizer": _optimizer(config.optimizer.model_dump(mode="json")),
        "schedule": config.schedule.model_dump(mode="json"),
        "polyak": config.polyak.model_dump(mode="json") | {"horizon_fraction": config.polyak.horizon},
        "train.batch_size": config.train.batch_size,
        "train.clip_norm": config.train.clip_norm,
        "train.seed": config.train.seed,
        "number of steps": num_steps,
    }


def _optimizer(section: dict) -> dict:
    """An optimizer's section without younger keys that change nothing."""
    return {k: v for k, v in section.items() if k not in _YOUNGER or v != _YOUNGER[k]}


def first_difference(saved: dict, now: dict) -> tuple[str, object, object] | None:
    """The first config key, dotted, whose value differs, with both values; None when all are equal.

    Args:
      saved: identity of a checkpoint; a key that it has not counts as None, as one of the run's does.
      now: identity of the run.
    """
    for key in [*now, *(key for key in saved if key not in now)]:
        old, new = saved.get(key), now.get(key)
        if old == new:
            continue
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return key, old, new
        if old.get("kind") != new.get("kind"):  # their other keys are not the same ones
            return f"{key}.kind", old.get("kind"), new.get("kind")
        if found := first_difference(old, new):  # else one has keys of None that the other lacks
            inner, old, new = found
            return f"{key}.{inner}", old, new
    return None
