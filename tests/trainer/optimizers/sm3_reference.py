"""SM3-II written out in NumPy, float64, one slice of the cover after the other."""

import itertools

import numpy as np


class Reference:
    """The dense algorithm on one array of any rank; a scalar or vector is covered by its values."""

    def __init__(self, weight, rate=0.1, momentum=0.0, beta=None):
        self.weight = np.array(weight, np.float64)
        self.rate, self.momentum, self.beta = rate, momentum, beta
        self.trace = np.zeros(self.weight.shape)
        self.accumulators = {key: 0.0 for key in self.cover()}

    def cover(self):
        """(axis, index) of every slice of codimension one; one slice for a scalar."""
        shape = self.weight.shape or (1,)
        return [(axis, i) for axis, n in enumerate(shape) for i in range(n)]

    def step(self, gradient, multiplier=1.0):
        """Takes a dense gradient."""
        gradient = np.asarray(gradient, np.float64)
        fresh = {key: -np.inf for key in self.accumulators}
        for place in itertools.product(*map(range, self.weight.shape)):
            slices = list(enumerate(place)) or [(0, 0)]
            nu = min(self.accumulators[key] for key in slices)
            if self.beta is None:
                nu += gradient[place] ** 2
            else:
                nu = self.beta * nu + (1 - self.beta) * gradient[place] ** 2
            update = gradient[place] / np.sqrt(nu) if nu > 0 else 0.0
            self.trace[place] = self.momentum * self.trace[place] + (1 - self.momentum) * update
            self.weight[place] -= self.rate * multiplier * self.trace[place]
            for key in slices:
                fresh[key] = max(fresh[key], nu)
        self.accumulators = fresh

    def accumulator(self, axis):
        """Of one axis, float64 [n]."""
        return np.array([value for (k, _), value in self.accumulators.items() if k == axis])
