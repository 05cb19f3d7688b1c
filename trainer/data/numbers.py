"""What models read of numeric features: the steps of configs/transforms.py, for NumPy and TensorFlow."""

from typing import Any

import numpy as np

from configs.dataset_parts import FeatureInfo
from configs.transforms import before_standardize, buckets, standardized, thresholds


def model_numbers(info: FeatureInfo, values: Any, xp: Any) -> Any:
    """What models read of a numeric feature.

    Args:
      info: of the feature.
      values: as stored, float32 [n], NaN where empty.
      xp: numpy or tensorflow.

    Returns:
      float32 [n] after all steps, empty values as the mean; with buckets, their ids, int64 [n].
    """
    if info.boundaries is not None:
        return buckets(thresholds(info.steps, info.boundaries), values, xp)
    ready = before_standardize(info.steps, values, xp)
    nan = xp.math.is_nan if hasattr(xp, "math") else np.isnan
    if "standardize" in info.steps:
        # Empty values become NaN again: minimum and maximum need not pass NaN on.
        return standardized(xp.where(nan(values), np.float32(np.nan), ready), info.mean, info.stddev, xp)
    return xp.where(nan(values) | nan(ready), np.float32(info.mean), ready)
