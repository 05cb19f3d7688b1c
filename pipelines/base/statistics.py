"""What features keep from dataset.base: their kinds, and the statistics of numbers.

A model that was trained on the base reads equal values alike only if means, deviations and boundaries stay.
"""

from collections.abc import Mapping
from typing import Any

from configs.dataset_parts import FeatureInfo
from configs.errors import DataError
from configs.manifest import Dataset
from configs.sections.features import FeatureConfig, NumericFeatureConfig, Step, VectorFeatureConfig, table_of
from configs.sections.sources import SourceConfig

_ALONE = "name the feature otherwise, or prepare all rows anew without dataset.base"
_REFRESH = "use what the base has, or set dataset.refresh_statistics: true"


def check_features(source: SourceConfig, base: Dataset, refresh: bool) -> None:
    """Compares features with those of the same name in the base.

    Args:
      refresh: dataset.refresh_statistics.

    Raises:
      DataError: one is of another kind, or has other steps or buckets while the base's statistics stay.
    """
    in_records = {feature.name for feature in source.features}
    for feature in source.all_features:
        before = base.features.get(feature.name)
        if before is None:
            continue
        now = {
            "of": feature.of, "kind": feature.kind, "table": table_of(feature),
            "lives": "records" if feature.name in in_records else "catalog",
        }  # fmt: skip
        if isinstance(feature, VectorFeatureConfig):
            now["dim"] = feature.dim
        for key, value in now.items():
            _expect(feature, key, value, getattr(before, key), base, _ALONE)
        if isinstance(feature, NumericFeatureConfig) and not refresh:
            _expect(feature, "transform", _plain(feature.steps), _plain(before.steps), base, _REFRESH)
            buckets = feature.model_dump(mode="json")["buckets"]
            _expect(feature, "buckets", buckets, _buckets(base, feature.name), base, _REFRESH)


def _expect(feature: FeatureConfig, key: str, now: Any, before: Any, base: Dataset, advice: str) -> None:
    if now != before:
        raise DataError(
            f"feature {feature.name}: {key} is {now!r}, but {before!r} in dataset.base {base.path}; {advice}"
        )


def _plain(steps: list[Step]) -> list[Any]:
    return [step if isinstance(step, str) else step.model_dump(mode="json") for step in steps]


def _buckets(base: Dataset, name: str) -> Any:
    """The buckets of a feature as the base's source section says."""
    source = base.source
    parts = [source.get("features", []), *(side.get("features", []) for side in source.get("sides", []))]
    return next((f.get("buckets") for part in parts for f in part if f.get("name") == name), None)


def keep_statistics(features: Mapping[str, FeatureInfo], base: Dataset) -> dict[str, FeatureInfo]:
    """Features with the means, deviations and boundaries of those that the base has; the others keep their
    own."""
    kept = {}
    for name, info in features.items():
        before = base.features.get(name)
        if before is not None and info.is_numeric:
            names = ("mean", "stddev", "boundaries")
            info = info.model_copy(update={key: getattr(before, key) for key in names})
        kept[name] = info
    return kept
