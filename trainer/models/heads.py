"""The logits of a ranking model's tasks, from what `top` reads: a class for each kind of model.sharing."""

import abc

import tensorflow as tf
import tf_keras

from configs.sections.ranking import MmoeConfig, RankingConfig
from trainer.models.dense import DenseStack, dense_layers, seed_of


class Head(tf.Module, abc.ABC):
    """Interface of heads.

    Args:
      options: the model's section.
      width: of what `top` reads.
      past_width: of what goes past it to the logits; 0: nothing does.
      seed: of the run.
    """

    def __init__(self, options: RankingConfig, width: int, past_width: int, seed: int):
        super().__init__(name=options.sharing.kind)
        self._options, self._width, self._past, self._seed = options, width, past_width, seed
        self._names = [task.name for task in options.tasks]

    @abc.abstractmethod
    def __call__(self, inputs, past, shifts: list[float], step=None, share=None) -> list:
        """Logits of the tasks in order, or with loss mse numbers, float32 [batch] each.

        Args:
          inputs: what `top` reads, float32 [batch, width].
          past: what goes past it, float32 [batch, past_width], or None.
          shifts: added to the logit of each task (of esmm: to that of the click and of the conversion rate).
          step, share: as in DenseStack.
        """

    def _top(self, name: str) -> DenseStack:
        return DenseStack(name, self._options.top, self._width, self._seed, self._options.dropout)

    def _last(self, task: str, width: int) -> tf_keras.layers.Dense:
        """The linear layer of a task, which reads `width` values and what goes past `top`."""
        name = f"{task}_logit"
        return dense_layers(name, [1], width + self._past, seed_of(self._seed, name), None, None)[0]


def _logit(layer, hidden, past, shift: float):
    """float32 [batch]; layer: from Head._last."""
    values = hidden if past is None else tf.concat([hidden, past], axis=1)
    return tf.squeeze(layer(values), axis=1) + shift


class SharedBottom(Head):
    """One `top`, and a linear layer for each task."""

    def __init__(self, options, width, past_width, seed):
        super().__init__(options, width, past_width, seed)
        self.top = self._top("top")
        self.last = [self._last(name, self.top.width) for name in self._names]

    def __call__(self, inputs, past, shifts, step=None, share=None):
        hidden = self.top(inputs, step, share)
        return [_logit(*pair) for pair in _each(self.last, [hidden] * len(self.last), past, shifts)]


class Mmoe(Head):
    """Mixtures of experts with a gate for each task."""

    def __init__(self, options, width, past_width, seed):
        super().__init__(options, width, past_width, seed)
        sharing = options.sharing
        assert isinstance(sharing, MmoeConfig)
        self.experts = [self._top(f"expert_{i}") for i in range(sharing.experts)]
        self.gates = [self._gate(name, sharing.experts) for name in self._names]
        mixed = self.experts[0].width
        self.towers = [DenseStack(f"{name}_tower", sharing.tower, mixed, seed) for name in self._names]
        self.last = [
            self._last(name, tower.width) for name, tower in zip(self._names, self.towers, strict=True)
        ]

    def _gate(self, task: str, experts: int) -> tf.Variable:
        name = f"{task}_gate"
        draw = tf_keras.initializers.GlorotUniform(seed=seed_of(self._seed, name))
        return tf.Variable(draw([self._width, experts]), name=name)

    def __call__(self, inputs, past, shifts, step=None, share=None):
        outputs = tf.stack([expert(inputs, step, share) for expert in self.experts], axis=1)
        hidden = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            parts = tf.nn.softmax(tf.matmul(inputs, gate))
            mixture = tf.squeeze(tf.matmul(parts[:, None, :], outputs), axis=1)
            hidden.append(tower(mixture, step, share))
        return [_logit(*pair) for pair in _each(self.last, hidden, past, shifts)]


class Esmm(Head):
    """Click, and click times conversion rate, each with layers of its own."""

    def __init__(self, options, width, past_width, seed):
        super().__init__(options, width, past_width, seed)
        self.tops = [self._top(f"{name}_top") for name in self._names]
        self.last = [self._last(name, top.width) for name, top in zip(self._names, self.tops, strict=True)]

    def __call__(self, inputs, past, shifts, step=None, share=None):
        hidden = [top(inputs, step, share) for top in self.tops]
        click, rate = (_logit(*pair) for pair in _each(self.last, hidden, past, shifts))
        return [click, product_logit(click, rate)]


def product_logit(first, second):
    """The logit of the product of two probabilities, from their logits; exact where one of them is near 0 or
    1.

    With p = 1 / (1 + exp(-a)) and q = 1 / (1 + exp(-b)), 1 / (p q) - 1 = exp(-a) + exp(-b) + exp(-a - b).
    """
    return -tf.reduce_logsumexp(tf.stack([-first, -second, -first - second]), axis=0)


def _each(layers: list, hidden: list, past, shifts: list[float]):
    return zip(layers, hidden, [past] * len(layers), shifts, strict=True)


HEADS = {"shared_bottom": SharedBottom, "mmoe": Mmoe, "esmm": Esmm}
