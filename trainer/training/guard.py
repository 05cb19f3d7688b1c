"""Keeps losses and gradients that are not finite away from the weights, and reports where they arose."""

import tensorflow as tf


class Guard(tf.Module):
    """Counts the batches that must not be applied.

    Args:
      parts: names of the gradients that are checked beside the loss, in their order.

    Attributes:
      skipped: number of such batches in the whole run, part of its saved state.
    """

    def __init__(self, parts: list[str]):
        super().__init__(name="guard")
        self._parts = parts
        self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        self._bad = tf.Variable(tf.zeros([1 + len(parts)], tf.bool), trainable=False, name="nonfinite")

    @property
    def latest(self) -> str:
        """What was not finite in the last batch that was counted, as text."""
        loss, *gradients = self._bad.numpy()
        names = [name for name, bad in zip(self._parts, gradients, strict=True) if bad]
        found = ["the loss"] if loss else []
        if len(names) == len(self._parts):
            found.append("every gradient")
        elif names:
            found.append(f"the gradient of {', '.join(names)}")
        return " and ".join(found) or "the sum of the gradients' squares"

    def check(self, loss, gradients: list, half_square):
        """Whether a batch may be applied, bool scalar; if not, it is counted.

        Args:
          loss: float32 scalar.
          gradients: float32 tensors, as `parts`; of rows, summed or not.
          half_square: half the sum of the squares of all summed gradients or more, float32 scalar.
        """
        # An overflowing sum is as bad as an infinite gradient: clipping would scale all gradients by 0, and
        # the squares that Adam and Adagrad keep would be infinite.
        fine = tf.math.is_finite(loss) & tf.math.is_finite(half_square)
        return tf.cond(fine, lambda: tf.constant(True), lambda: self._look([loss, *gradients]))

    def note(self, bad):
        """Counts a batch that has been applied already, on devices whose step cannot hold it back.

        Only the first bad batch of this process is counted and kept for `latest`: the weights, and so all
        later batches, are bad as well.

        Args:
          bad: what was not finite, bool [1 + parts], the loss first.

        Returns:
          Whether the batch was finite, bool scalar.
        """
        first = tf.reduce_any(bad) & ~tf.reduce_any(self._bad)
        self._bad.assign(tf.where(first, bad, self._bad))
        self.skipped.assign_add(tf.cast(first, tf.int64))
        return ~tf.reduce_any(bad)

    def _look(self, values):
        bad = tf.stack([~tf.reduce_all(tf.math.is_finite(value)) for value in values])
        self._bad.assign(bad)
        self.skipped.assign_add(1)
        return tf.constant(False)
