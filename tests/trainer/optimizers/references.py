"""Each optimizer reimplemented in NumPy float64, on whole tables: what the contract suite compares with."""

import numpy as np


class Reference:
    """A table under one optimizer.

    Args:
      config: its section.
      weight: float [rows, dim], initial weights.
    """

    def __init__(self, config, weight):
        self.config, self.weight = config, np.array(weight, np.float64)
        self.slots = INITIAL[config.kind](config, self.weight)

    def step(self, ids, gradients, t, rate):
        """One step: gradients [n, dim] of ids [n] with repeats, step t from 1."""
        gradient = np.zeros_like(self.weight)
        np.add.at(gradient, ids, gradients)
        rows = slice(None) if self.config.kind == "adam" else np.unique(ids)
        g = gradient[rows]
        if self.config.clip_value:
            g = np.clip(g, -self.config.clip_value, self.config.clip_value)
        before = self.weight[rows].copy()
        slots = [slot[rows] for slot in self.slots]
        after, slots = UPDATE[self.config.kind](self.config, before, slots, g, t, rate)
        self.weight[rows] = after - rate * getattr(self.config, "weight_decay", 0.0) * before
        for slot, value in zip(self.slots, slots, strict=True):
            slot[rows] = value


def _adam_slots(config, w):
    per_row = getattr(config, "bias_correction", "global") == "per_row"
    counter = [np.zeros((len(w), 1))] if per_row else []
    return [np.zeros_like(w) for _ in range(3 if config.amsgrad else 2)] + counter


INITIAL = {
    "lazy_adam": _adam_slots,
    "adam": _adam_slots,
    "adagrad": lambda c, w: [np.full_like(w, c.initial_accumulator_value)],
    "rowwise_adagrad": lambda c, w: [np.full((len(w), 1), c.initial_accumulator_value)],
    "sgd": lambda c, w: [],
    "momentum": lambda c, w: [np.zeros_like(w)],
    "ftrl": lambda c, w: [np.full_like(w, c.initial_accumulator_value), np.zeros_like(w)],
}


def _adam(c, w, slots, g, t, rate):
    m, v, *more = slots
    m, v = c.beta_1 * m + (1 - c.beta_1) * g, c.beta_2 * v + (1 - c.beta_2) * g**2
    second = v
    if c.amsgrad:
        second = more[0] = np.maximum(more[0], v)
    rule = getattr(c, "bias_correction", "global")
    if rule == "per_row":
        t = more[-1] = more[-1] + 1
    if rule != "none":
        rate = rate * np.sqrt(1 - c.beta_2**t) / (1 - c.beta_1**t)
    return w - rate * m / (np.sqrt(second) + c.epsilon), [m, v, *more]


def _adagrad(c, w, slots, g, t, rate):
    a = slots[0] + g**2
    return w - rate * g / np.sqrt(a + c.epsilon), [a]


def _rowwise_adagrad(c, w, slots, g, t, rate):
    a = slots[0] + (g**2).mean(axis=1, keepdims=True)
    return w - rate * g / (np.sqrt(a) + c.epsilon), [a]


def _momentum(c, w, slots, g, t, rate):
    u = c.momentum * slots[0] - rate * g
    return (w + c.momentum * u - rate * g if c.nesterov else w + u), [u]


def _ftrl(c, w, slots, g, t, rate):
    n, z = slots
    p = -c.learning_rate_power
    after = n + g**2
    z = z + g + 2 * c.l2_shrinkage * w - (after**p - n**p) / rate * w
    shrunk = np.where(np.abs(z) <= c.l1, 0.0, np.sign(z) * c.l1 - z)
    return shrunk / ((after**p + c.beta) / rate + 2 * c.l2), [after, z]


UPDATE = {
    "lazy_adam": _adam,
    "adam": _adam,
    "adagrad": _adagrad,
    "rowwise_adagrad": _rowwise_adagrad,
    "sgd": lambda c, w, slots, g, t, rate: (w - rate * g, []),
    "momentum": _momentum,
    "ftrl": _ftrl,
}
