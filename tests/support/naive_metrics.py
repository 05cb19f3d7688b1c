"""Metrics of predictions in the plainest form: loops over pairs and thresholds, in float64."""

import numpy as np


def naive_auc(labels, predictions, weights) -> float:
    """Share of the weight of (positive, negative) pairs in the right order; ties count half. O(n^2)."""
    pos, neg = labels == 1, labels == 0
    difference = predictions[pos, None].astype(float) - predictions[None, neg].astype(float)
    pairs = weights[pos, None] * weights[None, neg]
    return float((pairs * ((difference > 0) + 0.5 * (difference == 0))).sum() / pairs.sum())


def naive_average_precision(labels, predictions, weights) -> float:
    """Sum over thresholds of precision times the gain in recall."""
    total, recall, found = (weights * labels).sum(), 0.0, 0.0
    for threshold in np.unique(predictions)[::-1]:
        above = predictions >= threshold
        tp = (weights * labels)[above].sum()
        found += tp / weights[above].sum() * (tp / total - recall)
        recall = tp / total
    return float(found)


def sorted_auc(labels, predictions, weights) -> float:
    """The AUC by one sort of all rows, for many rows."""
    values, place = np.unique(predictions, return_inverse=True)
    pos = np.bincount(place, weights * labels, len(values))
    neg = np.bincount(place, weights * (1 - labels), len(values))
    below = np.cumsum(neg) - neg
    return float((pos * (below + neg / 2)).sum() / (pos.sum() * neg.sum()))


def sorted_average_precision(labels, predictions, weights) -> float:
    """The average precision by one sort of all rows, for many rows."""
    values, place = np.unique(-predictions.astype(float), return_inverse=True)
    pos = np.bincount(place, weights * labels, len(values))
    everything = np.bincount(place, weights, len(values))
    return float((pos * np.cumsum(pos) / np.maximum(np.cumsum(everything), 1e-300)).sum() / pos.sum())


def naive_grouped_auc(groups, labels, predictions, weights) -> tuple[float, int]:
    """(mean AUC by weight of the groups with both labels, number of groups without)."""
    total = weight = 0.0
    without = 0
    for group in np.unique(groups):
        mine = groups == group
        if len(np.unique(labels[mine])) < 2:
            without += 1
            continue
        own = weights[mine].sum()
        total += own * naive_auc(labels[mine], predictions[mine], weights[mine])
        weight += own
    return total / weight, without


def clicks(number: int, seed: int = 0, ties: int | None = None) -> tuple[np.ndarray, ...]:
    """(labels, predictions float32, weights) of rows; `ties`: number of distinct predictions."""
    draw = np.random.default_rng(seed)
    predictions = 1 / (1 + np.exp(-draw.normal(-1, 1, number)))
    labels = (draw.random(number) < predictions).astype(float)
    if ties:
        predictions = np.round(predictions * ties) / ties
    return labels, predictions.astype(np.float32), draw.random(number) + 0.1
