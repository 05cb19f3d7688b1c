"""The served model: raw keys in, items and scores out; a tf.Module that holds nothing but what it needs.

Signatures, all batched over users or items:
  serving_default  user [B] -> as `recommend` with its defaults; the one that TF Serving can batch.
  recommend        user [B] string, and optional inputs -> items [B, k] string, scores [B, k] float32,
                   known [B] bool.
  user_embedding   user [B], and what a request says of users -> embedding [B, D].
  item_embedding   item [B] -> embedding [B, D].
  score            user [B], item [B], and what a request says of users -> score [B].
A Python process that has loaded the model finds beside them, for batch outputs:
  recommend_rows   as `recommend`, by exact search under every index -> rows [B, k] int32 of item_names, -1 in
                   unfilled places, scores and known.
  item_names       string variable [items], raw keys.
  item_vectors     float32 variable [items, D]; the first ones may be recommended.
  search_inputs    as `recommend`, without k and restrictions -> embedding [B, D], known [B], and the pairs to
                   leave out: owners int64 [n], places in the batch, and banned int64 [n], rows of item_names.
  allowed_rows     include and where_<feature>, of one row each -> rows int32 [n] of item_names that they
                   allow, rising.

Optional inputs. TF Serving fills them in (SignatureDef.defaults), and so do the Python functions of the
loaded model; `signatures[...]` in Python needs all of them. [*, M] has one row for the whole batch or one for
each user, filled up with "".
  What a request says of users, in place of what the model knows of them:
    history        [*, M] string, item keys, newest last, if the model reads history; items outside the
                   catalog are dropped, and of the others the newest count. With dataset.history_of `others`
                   an item counts once, however often it is named. A row without keys: the known one.
    <feature>      each feature of users or of the context that the model reads, and the keys of crosses.
                   One key: [1] or [B] string; "" says nothing. A number: [1] or [B] float32; NaN says
                   nothing. A list: [*, M] string; a row without keys says nothing. A vector: [*, dim]
                   float32; a row with a NaN says nothing. Where a request says nothing of a user's feature,
                   the known value counts; of the context, the empty one. A cross is made of its keys, where
                   a request names any of them.
    weight_<feature>  [*, M] float32, the weights of a weighted list; without columns all are 1.
  What `recommend` may return:
    k              int32 scalar.
    exclude_seen   bool scalar: leave out items of the user's past, those of the input `history` included.
    exclude        [*, M] string, item keys to leave out.
    include        [*, M] string, item keys; only they may be returned.
    where_<feature>  [*, M] string, values of a categorical or list feature of items with exact ids; only
                   items that have one of them may be returned. Several features, and `include`, have to hold
                   together.
  Restricted answers are exact under every index.

A score is the dot product of the two embeddings (under dot_bias: the logit of the trained probability);
where the model adds a bias, a constant column carries it. When fewer than k items are left, or found by an
approximate index, the rest is "" with the score NO_SCORE, the lowest float32. k outside 1 .. export.max_k is
INVALID_ARGUMENT.

Unknown keys: under exact ids they share the out-of-vocabulary row, under hashed ids they have the row that
their hash gives them, with whatever history other keys have left there. `known` says whether the user's row
was trained. Items outside the catalog are never recommended.
"""

import dataclasses
import inspect
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from configs.sections.export import BruteForceIndexConfig
from trainer.indexes.among import search_among
from trainer.indexes.base import NO_SCORE, BaseIndex, make_index
from trainer.serving.filters import AllowedItems, FeatureFilter
from trainer.serving.inputs.device_lists import DeviceLists
from trainer.serving.inputs.history import HistoryInput
from trainer.serving.inputs.kinds import BaseInput, constant
from trainer.serving.keys import KeyTable
from trainer.serving.user_rows import Lists

DEFAULT_K = 10
WHERE = "where_"
"""Begins the names of inputs with values of an item feature."""


@dataclasses.dataclass(frozen=True)
class UserState:
    """What the user tower reads; see trainer.serving.user_rows.UserRows."""

    known: np.ndarray
    history: Lists | None
    history_length: int
    seen: Lists | None
    history_is_set: bool = False
    """Whether histories hold each item once (dataset.history_of: others)."""


class ServingModel(tf.Module):
    """See the module's docstring.

    Args:
      user_keys, item_keys: KeyTable, from keys to catalog ids.
      users: UserState, by catalog id.
      inputs: of the features that the user tower reads, and of keys of crosses, by name.
      item_filters: FeatureFilter of each item feature that requests may name.
      item_order: int64 [catalog ids], those of items in the order of the vectors and names: first those that
        may be recommended, rising.
      servable: number of those.
      in_histories: number of the first of them that histories may hold: items with train rows.
      item_vectors: float32 variable [catalog ids, D].
      item_names: raw keys, object (bytes) [catalog ids].
      index: of item_vectors.
      user_tower: function from inputs (catalog ids of user: int64 [n], and of items as history: int64
        [n, length] padded with -1, and features as trainer.data.features.model_inputs) to vectors float32
        [n, D].
      weights: variables that `user_tower` reads.
      max_k: largest k of a request.
    """

    def __init__(
        self,
        user_keys: KeyTable,
        item_keys: KeyTable,
        users: UserState,
        inputs: dict[str, BaseInput],
        item_filters: dict[str, FeatureFilter],
        item_order: np.ndarray,
        servable: int,
        in_histories: int,
        item_vectors: tf.Variable,
        item_names: np.ndarray,
        index: BaseIndex,
        user_tower: Callable,
        weights: list[tf.Variable],
        max_k: int,
    ):
        super().__init__(name="lazytower")
        self._user_keys, self._item_keys = user_keys, item_keys
        self._inputs, self._filters = inputs, item_filters
        self._known = constant(users.known, "known_users")
        self._history = None
        if users.history:
            bound = len(item_names) if users.history_is_set else None
            self._history = HistoryInput(
                users.history, users.history_length, item_keys, self._in_history, bound
            )
        self._seen = DeviceLists(users.seen, "seen") if users.seen else None
        self._item_places, self._servable = _places(item_order), servable
        self._in_histories = in_histories
        self.item_vectors, self._index = item_vectors, index
        self.item_names = constant(item_names, "item_names")
        self._user_tower, self._weights = user_tower, weights
        self._max_k = max_k
        self._traced_vectors = tf.function(self.user_vectors, autograph=False)
        self._make_functions()

    @property
    def state_inputs(self) -> list[str]:
        """Names of optional inputs that say something of users."""
        return [spec.name for spec, _ in self._state_inputs()]

    @property
    def feature_forms(self) -> dict[str, str]:
        """BaseInput.form of the features that requests can give, by name."""
        return {name: feature.form for name, feature in self._inputs.items() if feature.form}

    @property
    def filter_inputs(self) -> list[str]:
        """Names of the inputs `where_<feature>`."""
        return [WHERE + name for name in self._filters]

    def _state_inputs(self) -> list[tuple[tf.TensorSpec, tf.Tensor]]:
        found = [] if self._history is None else self._history.specs()
        return found + [pair for feature in self._inputs.values() for pair in feature.specs()]

    def _make_functions(self) -> None:
        user, item = (tf.TensorSpec([None], tf.string, name) for name in ("user", "item"))
        keys, state = tf.TensorSpec([None, None], tf.string), self._state_inputs()
        count = (tf.TensorSpec([], tf.int32, "k"), tf.constant(min(DEFAULT_K, self._max_k)))
        seen = (tf.TensorSpec([], tf.bool, "exclude_seen"), tf.constant(self._seen is not None))
        exclude, *restrictions = (
            (tf.TensorSpec(keys.shape, keys.dtype, name), tf.zeros([1, 0], tf.string))
            for name in ("exclude", "include", *self.filter_inputs)
        )
        options = [count, seen, exclude, *restrictions]
        defaults = {spec.name: value for spec, value in [*options, *state]}

        def item_embedding(inputs):
            return {"embedding": self._vectors_of_items(inputs["item"])}

        # Functions that call one another, so that the graph holds the model once.
        found = named_function(self._found_by(self._index), [user], [*options, *state])
        self.recommend_rows = found
        if not self._index.exact:
            exact = make_index(BruteForceIndexConfig(), self.item_vectors, self._servable)
            self.recommend_rows = named_function(self._found_by(exact), [user], [*options, *state])
        self.recommend = named_function(
            lambda inputs: self._named(found(**inputs)), [user], [*options, *state]
        )
        self.serving_default = named_function(
            lambda inputs: self._named(found(**{**defaults, **inputs})), [user], []
        )
        self.search_inputs = named_function(self._search_inputs, [user], [seen, exclude, *state])
        self.allowed_rows = named_function(self._allowed_rows, [], restrictions)
        self.user_embedding = named_function(self._user_embedding, [user], state)
        self.item_embedding = named_function(item_embedding, [item], [])
        self.score = named_function(self._score, [user, item], state)

    def signatures(self) -> dict:
        """What tf.saved_model.save takes as `signatures`."""
        names = ("serving_default", "recommend", "user_embedding", "item_embedding", "score")
        return {name: getattr(self, name) for name in names}

    def _user_embedding(self, inputs):
        return {"embedding": self._checked(inputs, self._state_checks(inputs), self._vectors_of_users)}

    def _score(self, inputs):
        users = self._checked(inputs, self._state_checks(inputs), self._vectors_of_users)
        return {"score": tf.reduce_sum(users * self._vectors_of_items(inputs["item"]), axis=1)}

    @staticmethod
    def _checked(inputs, checks: list, then: Callable):
        """Nothing is computed from a request before it has been checked."""
        with tf.control_dependencies(checks):
            return then({name: tf.identity(value) for name, value in inputs.items()})

    def _vectors_of_items(self, keys):
        # After a gather from the variable itself TensorFlow copies it at every whole read, that of the index.
        return tf.gather(self.item_vectors.read_value(), self._places_of_items(keys))

    def _places_of_items(self, keys):
        return self._places_of_rows(self._item_keys(keys))

    def _places_of_rows(self, rows):
        """Rows of the vectors, int64 [n], of catalog ids."""
        return rows if self._item_places is None else tf.gather(self._item_places, rows)

    def _vectors_of_users(self, inputs):
        return self._vectors_of_ids(self._user_keys(inputs["user"]), inputs)

    def _vectors_of_ids(self, ids, inputs):
        return self._traced_vectors(ids, {name: inputs[name] for name in self.state_inputs})

    def user_vectors(self, ids, inputs: dict | None = None):
        """Vectors float32 [n, D] of users with catalog ids int64 [n].

        `inputs`: what a request says of these users; None: nothing.
        """
        inputs = inputs or {}
        state = {"user": ids}
        if self._history is not None:
            state |= self._history.values({"user": ids}, inputs)
        owners = dict.fromkeys(("user", "item", "context"), ids)  # of items nothing is known here
        for feature in self._inputs.values():
            state |= feature.values(owners, inputs)
        return self._user_tower(state)

    def _in_history(self, rows):
        """Whether histories may hold items of catalog ids int64 [n], bool [n]."""
        return self._places_of_rows(rows) < self._in_histories

    def _found_by(self, index: BaseIndex) -> Callable:
        """The body of `recommend_rows`, with unrestricted searches by `index`."""
        return lambda inputs: self._checked(
            inputs, self._checks(inputs), lambda checked: self._found(index, checked)
        )

    def _found(self, index: BaseIndex, inputs):
        ids, k = self._user_keys(inputs["user"]), inputs["k"]
        users, banned = self._vectors_of_ids(ids, inputs), self._banned(ids, inputs)
        restrictions = [inputs[name] for name in ("include", *self.filter_inputs)]

        def among():
            allowed = self._allowed(inputs)
            return search_among(index, users, self.item_vectors, self._servable, allowed, banned, k)

        there = tf.reduce_any([tf.reduce_any(text != "") for text in restrictions])
        scores, rows = tf.cond(there, among, lambda: index.search(users, banned, k))
        rows = tf.where(scores > NO_SCORE, tf.cast(rows, tf.int32), -1)
        return {"rows": rows, "scores": scores, "known": tf.gather(self._known, ids)}

    def _allowed(self, inputs) -> AllowedItems:
        wheres = [(inputs[WHERE + name], found) for name, found in self._filters.items()]
        return AllowedItems((inputs["include"], self._places_of_items), wheres, self._servable)

    def _allowed_rows(self, inputs):
        return {"rows": tf.cast(tf.where(self._allowed(inputs).mask(0))[:, 0], tf.int32)}

    def _search_inputs(self, inputs):
        """The body of `search_inputs`."""

        def parts(checked):
            ids = self._user_keys(checked["user"])
            owners, banned = self._banned(ids, checked)
            known, vectors = tf.gather(self._known, ids), self._vectors_of_ids(ids, checked)
            return {"embedding": vectors, "owners": owners, "banned": banned, "known": known}

        checks = [*self._seen_checks(inputs), _one_or_each("exclude", inputs), *self._state_checks(inputs)]
        return self._checked(inputs, checks, parts)

    def _named(self, found):
        """What `recommend` returns, from what `recommend_rows` does."""
        rows = found["rows"]
        items = tf.where(rows >= 0, tf.gather(self.item_names, tf.maximum(rows, 0)), "")
        return {"items": items, "scores": found["scores"], "known": found["known"]}

    def _checks(self, inputs) -> list:
        """Assertions that refuse a request that cannot be answered, as INVALID_ARGUMENT."""
        k, message = inputs["k"], f"k must be 1 to {self._max_k} (export.max_k), found"
        checks = [tf.Assert((k >= 1) & (k <= self._max_k), [message, k])]
        checks += [_one_or_each(name, inputs) for name in ("exclude", "include", *self.filter_inputs)]
        return checks + self._seen_checks(inputs) + self._state_checks(inputs)

    def _seen_checks(self, inputs) -> list:
        message = "exported without seen items (export.exclude_seen)"
        return [] if self._seen is not None else [tf.Assert(~inputs["exclude_seen"], [message])]

    def _state_checks(self, inputs) -> list:
        checks = [_one_or_each(name, inputs) for name in self.state_inputs]
        return checks + [check for feature in self._inputs.values() for check in feature.checks(inputs)]

    def _banned(self, ids, inputs):
        """(position in the batch, row of the item's vector) of all pairs to leave out, int64 [n] each."""
        banned = [self._pairs_of(ids, inputs["exclude"])]
        if self._seen is not None:
            seen = self._seen.of(ids, inputs["exclude_seen"])
            banned.append((seen.value_rowids(), self._places_of_rows(tf.cast(seen.values, tf.int64))))
            if "history" in inputs:
                fresh = tf.where(inputs["exclude_seen"], inputs["history"], "")
                banned.append(self._pairs_of(ids, fresh))
        users, rows = (tf.concat(parts, axis=0) for parts in zip(*banned, strict=True))
        return users, rows

    def _pairs_of(self, ids, keys):
        """As _banned, of keys string [1 or batch, m]."""
        keys = tf.broadcast_to(keys, tf.stack([tf.shape(ids)[0], tf.shape(keys)[1]]))
        place = tf.where(keys != "")
        return place[:, 0], self._places_of_items(tf.gather_nd(keys, place))


def named_function(body: Callable, required: list, optional: list) -> tf.function:
    """A tf.function of named inputs that calls `body` with a dict of them.

    Args:
      required: tf.TensorSpec of each, with its name.
      optional: (tf.TensorSpec, value) of each; tf.saved_model.save makes SignatureDef.defaults of the values.
    """
    specs = [*required, *(spec for spec, _ in optional)]
    names = [spec.name for spec in specs]

    def function(*values):
        return body(dict(zip(names, values, strict=True)))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(spec.name, kind) for spec in required]
    parameters += [inspect.Parameter(spec.name, kind, default=value) for spec, value in optional]
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # tf.function reads it
    return tf.function(function, input_signature=specs, autograph=False)


def _one_or_each(name: str, inputs):
    """Asserts that an input has one row for all users or one each."""
    rows, users = tf.shape(inputs[name])[0], tf.shape(inputs["user"])[0]
    message = f"{name} needs one row for all users, or one per user, found"
    return tf.Assert((rows == 1) | (rows == users), [message, rows])


def _places(order: np.ndarray) -> tf.Variable | None:
    """By catalog id its place in `order`, int64; None when each id is its own place."""
    rising = np.arange(len(order))
    if np.array_equal(order, rising):
        return None
    places = np.empty_like(order)
    places[order] = rising
    return constant(places, "item_places")
