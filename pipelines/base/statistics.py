"""Statistics of numbers that stay those of dataset.base.

A model that was trained on the base reads equal values alike only if means, deviations and boundaries stay.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from configs.dataset_parts import FeatureInfo
from configs.manifest import Dataset
from configs.sections.features import FeatureConfig, NumericFeatureConfig
from pipelines.base.chain import Base


def other_buckets(features: Sequence[FeatureConfig], base: Dataset) -> Iterator[str]:
    """How buckets of numbers differ from those of the base, which stay unless dataset.refresh_statistics."""
    for feature in features:
        if isinstance(feature, NumericFeatureConfig):
            here, there = feature.model_dump(mode="json")["buckets"], _buckets(base, feature.name)
            if here != there:
                yield (
                    f"feature {feature.name}: buckets are {json.dumps(here)} here, {json.dumps(there)} there "
                    "(dataset.refresh_statistics: true allows others)"
                )


def _buckets(base: Dataset, name: str) -> Any:
    """The buckets of a feature as the base's source section says."""
    source = base.source
    parts = [source.get("features", []), *(side.get("features", []) for side in source.get("sides", []))]
    return next((f.get("buckets") for part in parts for f in part if f.get("name") == name), None)


def keep_statistics(features: Mapping[str, FeatureInfo], base: Base | None) -> dict[str, FeatureInfo]:
    """Features with the means, deviations and boundaries that numbers have in the base; without one their
    own."""
    kept = {}
    for name, info in features.items():
        before = base.top.features.get(name) if base else None
        if before is not None and info.is_numeric:
            names = ("mean", "stddev", "boundaries")
            info = info.model_copy(update={key: getattr(before, key) for key in names})
        kept[name] = info
    return kept
