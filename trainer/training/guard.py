"""Keeps losses and gradients that are not finite away from the weights, and says where they came from."""

import tensorflow as tf


class Guard(tf.Module):
    """Counts the batches that must not be applied.

    Args:
      parts: what is checked beside the loss, names in the order of the gradients.

    Attributes:
      skipped: such batches of the whole run, part of its saved state.
    """

    def __init__(self, parts: list[str]):
        super().__init__(name="guard")
        self._parts = parts
        self.skipped = tf.Variable(0, dtype=tf.int64, trainable=False, name="skipped")
        self._bad = tf.Variable(tf.zeros([1 + len(parts)], tf.bool), trainable=False, name="nonfinite")

    @property
    def latest(self) -> str:
        """What was not finite in the latest batch that was counted, as text."""
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
        # A sum that overflows is as bad as one of its values: clipping would scale all by 0, Adam's and
        # Adagrad's squares would be infinite.
        fine = tf.math.is_finite(loss) & tf.math.is_finite(half_square)
        return tf.cond(fine, lambda: tf.constant(True), lambda: self._look([loss, *gradients]))

    def note(self, bad):
        """Whether a batch was fine, bool scalar, given what of it was not finite: bool [1 + parts], the loss
        first. For steps that cannot hold a batch back: only the first bad one of this process is counted and
        kept for `latest`, because weights and batches after it are bad too."""
        first = tf.reduce_any(bad) & ~tf.reduce_any(self._bad)
        self._bad.assign(tf.where(first, bad, self._bad))
        self.skipped.assign_add(tf.cast(first, tf.int64))
        return ~tf.reduce_any(bad)

    def _look(self, values):
        bad = tf.stack([~tf.reduce_all(tf.math.is_finite(value)) for value in values])
        self._bad.assign(bad)
        self.skipped.assign_add(1)
        return tf.constant(False)
