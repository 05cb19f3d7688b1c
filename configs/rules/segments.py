"""Checks of the names in `evaluate.by` and `evaluate.diversity`, for both families of models."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from configs.sections.evaluation import ACTIVITY, AGE, VECTORS
from configs.sections.features import table_of

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_segments(config: "RunConfig") -> None:
    """Raises ValueError, naming the key and all names that it may have, if evaluate.by or evaluate.diversity
    names something else."""
    evaluate, features = config.evaluate, config.features
    keyed = [name for name, feature in features.items() if table_of(feature)]
    if config.model.family == "ranking":
        _check("by", evaluate.by, keyed, "a feature with keys or buckets")
        return
    # What is of the row is in no catalog, and evaluation goes by users and items.
    own = [name for name in keyed if features[name].of in ("user", "item")]
    of_items = [name for name in keyed if features[name].of == "item"]
    what = "activity, age, or a feature of users or items with keys or buckets"
    _check("by", evaluate.by, [ACTIVITY, AGE, *(n for n in own if n not in (ACTIVITY, AGE))], what)
    _check(
        "diversity",
        evaluate.diversity,
        [VECTORS, *of_items],
        "vectors, or an item feature with keys or buckets",
    )
    if AGE in evaluate.by and AGE not in own and config.source.roles.timestamp is None:
        raise ValueError(
            "evaluate.by: age requires timestamps; name their column in source.roles.timestamp, or remove age"
        )


def _check(key: str, names: Iterable[str], known: list[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"evaluate.{key}: {name!r} is not {what}; known: {', '.join(known) or 'none'}")
