"""Cases of the benchmarks in TensorFlow: lazytower's tables, and plain variables under Keras and TF-Addons.

The model: score = e_u . e_i, the dot product of a pair of rows of ONE table, under the
logistic loss averaged over the batch. Its gradient is written out, with the operations that automatic
differentiation would use: e_u gets slope e_i, e_i gets slope e_u, slope = (sigmoid(score) - label) / pairs.

Summing a row's repeated gradients happens inside the update, but belongs to the gradient phase where
lazytower has no kernel that does both: compare totals.
"""

import tensorflow as tf

from configs.system.pythons import missing_addons
from trainer.bench.timing import GIB, NotMeasured, need_memory
from trainer.embeddings import TABLE_KINDS
from trainer.embeddings.base import CHUNK_ROWS
from trainer.embeddings.block_hash import BlockHash
from trainer.embeddings.engines.rows import assign_rows
from trainer.embeddings.pooling import of_distinct, pooled
from trainer.kernels.ops import sum_rows
from trainer.optimizers import ROW_OPTIMIZERS

STDDEV = 0.05


class _Case:
    """Compiles the phases; subclasses define _forward, _gradient and _update."""

    def __init__(self):
        # The number of distinct rows differs from step to step and must not trigger a recompilation.
        self._compiled = [
            tf.function(f, reduce_retracing=True) for f in (self._forward, self._gradient, self._update)
        ]
        self._step = 0

    def inputs(self, ids, labels):
        """The batch as tensors, outside the clock."""
        return tf.constant(ids), tf.constant(labels)

    def forward(self, ids, labels):
        """Lookup and loss."""
        return self._compiled[0](ids, labels)

    def gradient(self, state):
        """Gradient of the looked-up rows."""
        return self._compiled[1](*state)

    def update(self, state) -> None:
        """The optimizer."""
        self._step += 1
        self._compiled[2](*state, tf.constant(float(self._step)))


class OurCase(_Case):
    """An embedding of lazytower: a table or ROBE-Z under a row optimizer, with or without its average."""

    def __init__(self, rows, options, optimizer: str, pairs: int, average=None):
        optimizer = ROW_OPTIMIZERS[optimizer](1e-3)
        # Rows as they are stored: a table's own, or the chunks of ROBE-Z's array.
        width = getattr(options, "block", options.dim)
        stored = getattr(options, "size", rows * width) // width
        record = width + sum(optimizer.slot_widths(width)) + (width if average else 0) + 1
        need_memory(4 * stored * record / GIB + 2)
        self.table = TABLE_KINDS[options.kind]("bench", rows, options, optimizer, average, 2 * pairs)
        self.table.initialize(STDDEV, 0)
        storage = self.table.storage
        self.model_bytes = 4 * storage.rows * storage.dim
        self.state_bytes = storage.bytes - self.model_bytes
        super().__init__()

    def _forward(self, ids, labels):
        ids = tf.reshape(ids, [-1])
        if self.table.takes_repeats:
            lookup, where = self.table.lookup_each(ids), None
        else:
            lookup, where = of_distinct(ids, self.table.lookup)
        pairs = tf.reshape(pooled(lookup.weight, where, ids, None), [-1, 2, self.table.dim])
        return (lookup, where, pairs, labels, *_scored(pairs, labels))

    def _gradient(self, lookup, where, pairs, labels, score, loss):
        values = _slopes(pairs, labels, score)
        return lookup, values if where is None else sum_rows(values, where, tf.shape(lookup.weight)[0])

    def _update(self, lookup, gradient, step):
        self.table.update(lookup, gradient, step, 1.0)


class PlainCase(_Case):
    """A plain variable under a Keras or TF-Addons optimizer: rows [n, dim], or ROBE-Z's array [size].

    ROBE-Z here is what TensorFlow offers by itself: `tf.gather` of the place of every single value.

    Args:
      rows, dim: of the embedding.
      make: makes the optimizer.
      robe: configs.sections.tables.RobeZConfig, or None for the full table.
      tables: memory needed, in sizes of the weights: slots and temporaries of a dense pass.
    """

    def __init__(self, rows, dim, make, robe=None, tables=3.0):
        shape = [rows, dim] if robe is None else [robe.size]
        values = rows * dim if robe is None else robe.size
        need_memory(4 * values * tables / GIB + 2)
        self.dim, self.robe = dim, robe
        if robe is not None:
            self._hash = BlockHash("bench", robe.seed, robe.size, dim, robe.block)
        self.weight = tf.Variable(tf.zeros(shape))
        for start in range(0, shape[0], CHUNK_ROWS):
            stop = min(start + CHUNK_ROWS, shape[0])
            piece = [stop - start, *shape[1:]]
            assign_rows(self.weight, start, STDDEV * tf.random.stateless_normal(piece, [0, start]))
        self.optimizer = make()
        make_slots(self.optimizer, self.weight)
        self.model_bytes = 4 * values
        super().__init__()

    @property
    def state_bytes(self) -> int:
        """Of the slots; a wrapper's own and those of the optimizer inside, made in the first step."""
        inner = getattr(self.optimizer, "_optimizer", None)
        optimizers = [optimizer for optimizer in (self.optimizer, inner) if optimizer is not None]
        variables = [v for o in optimizers for v in (o.variables() if callable(o.variables) else o.variables)]
        slots = {v.ref(): v.shape.num_elements() for v in variables if v.shape.rank}
        return 4 * sum(slots.values())

    def _places(self, ids):
        if self.robe is None:
            return ids
        blocks = self._hash(ids)[:, None] + tf.range(self.robe.block, dtype=tf.int64)
        places = tf.reshape(blocks % self.robe.size, [tf.size(ids), -1])[:, : self.dim]
        return tf.reshape(places, [-1])

    def _forward(self, ids, labels):
        places = self._places(tf.reshape(ids, [-1]))
        pairs = tf.reshape(tf.gather(self.weight, places), [-1, 2, self.dim])
        return (places, pairs, labels, *_scored(pairs, labels))

    def _gradient(self, places, pairs, labels, score, loss):
        values = _slopes(pairs, labels, score)
        return places, values if self.robe is None else tf.reshape(values, [-1])

    def _update(self, places, values, step):
        slices = tf.IndexedSlices(values, places, self.weight.shape)
        self.optimizer.apply_gradients([(slices, self.weight)])


def keras_case(rows, dim, optimizer, robe=None, legacy=False) -> PlainCase:
    """A case of tf_keras.optimizers, or of its `legacy` ones with fused sparse kernels."""
    import tf_keras

    names = {"sgd": "SGD", "adagrad": "Adagrad", "adam": "Adam"}
    if optimizer not in names:
        raise NotMeasured(f"Keras has no {optimizer}")
    if legacy and robe is not None:
        raise NotMeasured("ROBE-Z is measured with Keras's current optimizers only")
    module = tf_keras.optimizers.legacy if legacy else tf_keras.optimizers
    tables = {"sgd": 1.5, "adagrad": 2.5, "adam": 6.0}[optimizer]
    return PlainCase(rows, dim, lambda: getattr(module, names[optimizer])(1e-3), robe, tables)


def face_case(rows, dim, optimizer, robe=None, keras=False) -> PlainCase:
    """A case of lazytower's optimizers on a plain variable, by themselves or as Keras optimizers."""
    if keras and ROW_OPTIMIZERS[optimizer].shared_names:
        raise NotMeasured(f"{optimizer} has no Keras form")

    def make():
        made = ROW_OPTIMIZERS[optimizer](1e-3)
        return made.keras() if keras else made

    return PlainCase(rows, dim, make, robe, 6.0 if optimizer == "adam" else 3.2)


def addons_optimizers():
    """The module tfa.optimizers. Raises NotMeasured where this Python has no TF-Addons."""
    from trainer.addons import import_addons

    if reason := missing_addons():
        raise NotMeasured(reason)
    return import_addons().optimizers


def addons_case(rows, dim, optimizer, robe=None, average=False) -> PlainCase:
    """A case of tfa.optimizers.LazyAdam, alone or inside tfa.optimizers.MovingAverage."""
    if optimizer != "lazy_adam":
        raise NotMeasured("of TF-Addons only LazyAdam is measured")
    optimizers = addons_optimizers()

    def make():
        lazy = optimizers.LazyAdam(1e-3)
        return optimizers.MovingAverage(lazy, average_decay=0.999) if average else lazy

    return PlainCase(rows, dim, make, robe, 6.0 if average else 3.2)


def make_slots(optimizer, variable) -> None:
    """Makes the slots before the first step, of current and of legacy optimizers."""
    if hasattr(optimizer, "build"):
        optimizer.build([variable])
    else:
        optimizer._create_all_weights([variable])


def write_fresh(table, weights) -> None:
    """Gives a table these weights, float32 [rows, dim], and what an optimizer and an average begin with."""
    for start, stop in table.chunks():
        weight = tf.constant(weights[start:stop])
        parts = [weight, *table.optimizer.initial_slots(weight)]
        parts += [weight] if table.average is not None else []
        parts.append(tf.zeros([stop - start, 1]))  # last_step
        table.write_records(start, tf.concat(parts, axis=1))


def _scored(pairs, labels):
    """(score [pairs], mean logistic loss) of pairs of rows [pairs, 2, dim]."""
    score = tf.reduce_sum(pairs[:, 0] * pairs[:, 1], axis=1)
    losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=score)
    return score, tf.reduce_mean(losses)


def _slopes(pairs, labels, score):
    """Gradient of the loss by both rows of each pair, [2 * pairs, dim]."""
    slope = (tf.sigmoid(score) - labels) / tf.cast(tf.size(score), tf.float32)
    return tf.reshape(slope[:, None, None] * tf.reverse(pairs, [1]), [-1, pairs.shape[2]])
