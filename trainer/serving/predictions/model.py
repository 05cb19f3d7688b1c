"""The served ranking model: raw features of rows in, predictions out.

Signatures:
  score, serving_default   optional inputs -> a prediction float32 [B] for each task, by its name:
                           probabilities with loss bce, numbers with mse.
  predict_examples         examples string [B], serialized tf.train.Example (see predictions/serialized.py) ->
                           as `score`.
  classify, classify_<task>  inputs string [B], serialized tf.train.Example -> classes [B, 2] string, "0" and
                           "1", and scores [B, 2] float32, their probabilities: TensorFlow Serving's Classify.
                           For tasks with loss bce; without a name, the first one.
  regress, regress_<task>  inputs string [B] -> outputs [B] float32, the prediction: its Regress. Without a
                           name, that of the first task.

Optional inputs of `score`, each with one row for all B or B rows, B being the largest number of rows:
  user, item       [*] string, keys, if the model reads anything of them; "" counts as unknown.
  history          [*, M] string, item keys, newest last, if the model reads it; as trainer/serving/model.py.
  <feature>, weight_<feature>  as trainer/serving/model.py: raw values of all features that the model reads,
                   and the keys of crosses. Where a request says nothing, the newest known value of the user
                   or item counts, and of the context the empty one.
TF Serving fills in inputs that are left out (SignatureDef.defaults), and so do the Python functions of the
loaded model; `signatures[...]` in Python needs all of them. Inputs of one row are looked up once: a user with
thousands of items costs one look-up of the user's features.
"""

import dataclasses
from collections.abc import Callable, Mapping

import tensorflow as tf

from trainer.serving.inputs.history import HistoryInput
from trainer.serving.inputs.kinds import BaseInput
from trainer.serving.keys import KeyTable
from trainer.serving.model import named_function
from trainer.serving.predictions.serialized import parse_examples

CLASSIFY, REGRESS = "classify", "regress"
"""Begin the names of their signatures."""


@dataclasses.dataclass(frozen=True)
class ServedTask:
    """One prediction."""

    name: str
    is_probability: bool


class PredictionModel(tf.Module):
    """See the module's docstring.

    Args:
      keys: of `user` and `item`, as far as the model reads anything of them, to catalog ids.
      inputs: of the history, the features that the model reads, and the keys of crosses.
      reads_ids: which of user and item the model itself looks up.
      lookup: as trainer.serving.weights.served_lookup.
      predict: function from (activations, inputs) of equally many rows to predictions by task, as
        trainer.models.base.RankingModel.predictions.
      tasks: in order.
      weights: variables that `lookup` and `predict` read.
    """

    def __init__(
        self,
        keys: dict[str, KeyTable],
        inputs: list[BaseInput | HistoryInput],
        reads_ids: list[str],
        lookup: Callable,
        predict: Callable,
        tasks: list[ServedTask],
        weights: list[tf.Variable],
    ):
        super().__init__(name="lazytower")
        self._keys, self._inputs, self._reads_ids = keys, inputs, reads_ids
        self._lookup, self._predict, self._weights = lookup, predict, weights
        self.tasks = tasks
        specs = self._specs()
        self.score = named_function(self._score, [], specs)
        serialized = tf.TensorSpec([None], tf.string, "examples")
        # Functions that call one another, so that the graph holds the model once.
        self.predict_examples = named_function(
            lambda given: self.score(**parse_examples(given["examples"], specs)), [serialized], []
        )
        self._of_examples = {
            name: named_function(self._form(name, task), [tf.TensorSpec([None], tf.string, "inputs")], [])
            for name, task in self.task_of_signature.items()
        }

    def signatures(self) -> dict:
        """What tf.saved_model.save takes as `signatures`."""
        of_rows = {"serving_default": self.score, "score": self.score}
        return of_rows | {"predict_examples": self.predict_examples} | self._of_examples

    @property
    def task_of_signature(self) -> dict[str, str]:
        """Of the signatures in the forms of Classify and Regress, the task."""
        forms = {CLASSIFY: [task.name for task in self.tasks if task.is_probability]}
        forms[REGRESS] = [task.name for task in self.tasks]
        found: dict[str, str] = {}
        for form, names in forms.items():
            found |= {form: names[0]} if names else {}
            found |= {f"{form}_{name}": name for name in names} if len(self.tasks) > 1 else {}
        return found

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """Optional inputs of `score`."""
        return [spec for spec, _ in self._specs()]

    @property
    def feature_inputs(self) -> list[BaseInput]:
        """Inputs of features that requests can give."""
        return [one for one in self._inputs if isinstance(one, BaseInput) and one.form]

    def _specs(self) -> list[tuple[tf.TensorSpec, tf.Tensor]]:
        found = [(tf.TensorSpec([None], tf.string, name), tf.constant([""])) for name in self._keys]
        return found + [pair for one in self._inputs for pair in one.specs()]

    def _form(self, name: str, task: str) -> Callable:
        """What a signature of Examples returns."""

        def predicted(given):
            return self.predict_examples(given["inputs"])[task]

        def classify(given):
            ones = predicted(given)
            classes = tf.broadcast_to(tf.constant([["0", "1"]]), tf.stack([tf.shape(ones)[0], 2]))
            return {"classes": classes, "scores": tf.stack([1.0 - ones, ones], axis=1)}

        return classify if name.startswith(CLASSIFY) else lambda given: {"outputs": predicted(given)}

    def _score(self, given: Mapping[str, tf.Tensor]) -> dict:
        """Nothing is computed from a request before it has been checked."""
        sizes = tf.stack([tf.shape(value)[0] for value in given.values()])
        rows = _largest(sizes)
        message = "inputs need one row, or as many as the longest of them, found"
        fitting = tf.reduce_all((sizes == 1) | (sizes == rows))
        checks = [tf.Assert(fitting, [message, sizes, tf.constant(list(given))], summarize=len(given))]
        checks += [check for one in self._inputs for check in one.checks(given)]
        with tf.control_dependencies(checks):
            given = {name: tf.identity(value) for name, value in given.items()}
            activations, inputs = self._lookup(self._values(given))
            activations = {name: _of_rows(value, rows) for name, value in activations.items()}
            inputs = {name: _of_rows(value, rows) for name, value in inputs.items()}
            return self._predict(activations, inputs)

    def _values(self, given: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Inputs of the model, each of as many rows as what it depends on."""
        ids = {of: table(given[of]) for of, table in self._keys.items()}
        ids["context"] = tf.zeros([1], tf.int64)
        found = {of: ids[of] for of in self._reads_ids}
        for one in self._inputs:
            sizes = [tf.shape(ids[of])[0] for of in one.owners]
            rows = _largest(tf.stack([*sizes, *(tf.shape(given[name])[0] for name in one.reads)]))
            found |= one.values({of: _of_rows(ids[of], rows) for of in one.owners}, given)
        return found


def _largest(sizes):
    """The number of rows of inputs together, int32 scalar: none if one of them has none."""
    return tf.where(tf.reduce_any(sizes == 0), 0, tf.reduce_max(sizes))


def _of_rows(value, rows):
    """`value` [rows, ...] or [1, ...] in `rows` rows."""
    found = tf.broadcast_to(value, tf.concat([[rows], tf.shape(value)[1:]], axis=0))
    return tf.ensure_shape(found, [None, *value.shape[1:]])
