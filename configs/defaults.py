"""Defaults that follow from other keys: what the user tower reads, whether items have a bias, the
temperature, the widths of tables.

A document may leave any of them out; what it says stays as it is. `RunConfig` is validated with them filled
in, and a saved config holds the values.
"""

from configs.sections.models import DotBiasConfig, TowerConfig, TwoTowerConfig
from configs.sections.tables import TableConfig

WIDTH = 128
"""Of the vectors of two towers whose dot product is the score, less the bias."""
DOT_BIAS_WIDTH = 64
"""As WIDTH, of the rows of dot_bias, less theirs."""
FEATURE_WIDTH = 32
"""Of the rows of side features, and of rows that a tower's layers mix."""
COSINE_TEMPERATURE = 0.15
"""Under normalize, where scores lie in -1..1; without it scores have no bounds, and it is 1."""
HISTORY_TEMPERATURE = 0.1
"""As COSINE_TEMPERATURE, where the user tower reads the history: it overfits less."""
HISTORY_LENGTH = 50
"""Items kept with each row where the model reads the user's history."""
USER_STDDEV = 0.005
"""Of the initial weights of user rows that are the vector, or are added to the history: normalised, the noise
of an ordinary start would outweigh the first updates of a user with few rows."""
RATE_BESIDE_HISTORY = 0.002
"""Of lazy_adam on user rows that are added to the history, which knows more of a user with few rows."""


def complete_model(config) -> TwoTowerConfig | DotBiasConfig:
    """The model section without open values, but for item_bias.

    Args:
      config: configs.schema.RunConfig, its tables as the document has them.
    """
    model = config.model
    if isinstance(model, DotBiasConfig):
        return model
    changes = {}
    if model.user_tower is None:
        inputs = ["user", "history"] if _reads_history(config.dataset) else ["user"]
        changes["user_tower"] = TowerConfig(inputs=inputs, combine="sum")
        if "pooling" not in model.history.model_fields_set:
            changes["history"] = model.history.model_copy(update={"pooling": "sqrtn"})
    tower = changes.get("user_tower", model.user_tower)
    if model.loss.temperature is None:
        cosine = HISTORY_TEMPERATURE if "history" in tower.inputs else COSINE_TEMPERATURE
        temperature = cosine if model.normalize else 1.0
        changes["loss"] = model.loss.model_copy(update={"temperature": temperature})
    return model.model_copy(update=changes)


def _reads_history(dataset) -> bool:
    """Whether the user tower reads the history by default: where it is kept, or where the split leaves each
    user a past. A temporal or random split does not: measured, histories did harm or nothing there."""
    if dataset.history_length is not None:
        return dataset.history_length > 0
    return dataset.split.kind in ("leave_last_out", "given")


def complete_dataset(config):
    """The dataset section without open values; the config's model is complete."""
    if config.dataset.history_length is not None:
        return config.dataset
    length = HISTORY_LENGTH if "history" in config.model.inputs else 0
    return config.dataset.model_copy(update={"history_length": length})


def complete_bias(config) -> TwoTowerConfig | DotBiasConfig:
    """The model section with item_bias, as far as the tables' widths allow; its towers are complete."""
    model = config.model
    if isinstance(model, DotBiasConfig) or model.item_bias is not None:
        return model
    return model.model_copy(update={"item_bias": _leaves_room_for_bias(config)})


def complete_tables(config) -> dict:
    """All tables that the model reads, each with its width.

    Args:
      config: configs.schema.RunConfig, its model complete.

    Raises:
      ValueError: a table has no width that agrees with what the document gives.
    """
    names = sorted(set(config.table_of_input.values()))
    tables = config.tables | {name: config.tables.get(name, TableConfig()) for name in names}
    if isinstance(config.model, TwoTowerConfig):
        tables |= _user_rows(config.model, tables)
    dims = {name: table.dim for name, table in tables.items()}
    if isinstance(config.model, DotBiasConfig):
        known = [dims[name] for name in ("user", "item") if dims[name] is not None]
        if len(known) < 2:
            dims |= dict.fromkeys(("user", "item"), known[0] if known else DOT_BIAS_WIDTH + 1)
    else:
        _Widths(config, dims).fill()
    return {
        name: table if table.dim is not None else _with_width(name, table, dims[name])
        for name, table in tables.items()
    }


def _user_rows(model: TwoTowerConfig, tables: dict) -> dict:
    """The user's table, if any, with what the document leaves open of USER_STDDEV and RATE_BESIDE_HISTORY."""
    tower, table = model.user_tower, tables.get("user")
    alone, added = tower.inputs == ["user"], sorted(tower.inputs) == ["history", "user"]
    if not (alone or (added and tower.combine == "sum")) or tower.layers or not model.normalize:
        return {}
    changes = {} if "init_stddev" in table.model_fields_set else {"init_stddev": USER_STDDEV}
    optimizer = table.optimizer
    if added and optimizer.kind == "lazy_adam" and "learning_rate" not in optimizer.model_fields_set:
        changes["optimizer"] = optimizer.model_copy(update={"learning_rate": RATE_BESIDE_HISTORY})
    return {"user": table.model_copy(update=changes)}


def _with_width(name: str, table, width: int | None):
    if width is None or not 1 <= width <= 4096:
        raise ValueError(f"tables.{name}.dim: no width makes the two towers agree; change the other widths")
    if table.kind == "robe_z" and table.block > width:
        raise ValueError(
            f"tables.{name}.block: {table.block} is more than dim, {width}; lower it, or give a larger dim"
        )
    return table.model_copy(update={"dim": width})


def _leaves_room_for_bias(config) -> bool:
    """Whether the widths that the document gives let the item's vector be one longer than the user's."""
    tower = config.model.item_tower
    if not tower.layers and tower.combine == "concat" and tower.inputs[-1] != "item":
        return False
    widths = _Widths(config, {name: table.dim for name, table in config.tables.items()})
    user, item = widths.of(config.model.user_tower), widths.of(tower)
    if item is None or (user is None and not tower.layers):
        return True
    return item == (user or 0) + 1


class _Widths:
    """Widths of the rows that two towers read, some of them open.

    Args:
      config: the run.
      dims: by table; None, or no entry: open.
    """

    def __init__(self, config, dims: dict[str, int | None]):
        self._model, self._tables, self._dims = config.model, config.table_of_input, dims
        self._carried = int(bool(config.item_rows_carry_bias))

    def of(self, tower: TowerConfig) -> int | None:
        """Width of a tower's vector; None: open."""
        if tower.layers:
            return tower.layers[-1]
        widths = {name: self._input(name) for name in tower.inputs}
        if tower.combine == "sum":  # numbers have no place in one; the schema says so
            rows = [width for name, width in widths.items() if name in self._tables]
            return next((width for width in rows if width is not None), None)
        return None if None in widths.values() else sum(widths.values())

    def fill(self) -> None:
        """Gives every open table a width, so that the towers agree where that is possible."""
        bias = int(self._model.item_bias)
        user, item = self._model.user_tower, self._model.item_tower
        for tower in (user, item):
            if tower.layers or tower.combine == "concat":
                self._set([name for name in tower.inputs if name not in _IDS], FEATURE_WIDTH)
            if tower.layers:
                self._set(tower.inputs, WIDTH)
        target = self.of(user)
        if target is None and (own := self.of(item)) is not None:
            target = own - bias
        self._fit(user, target)
        self._fit(item, self.of(user) + bias)

    def _fit(self, tower: TowerConfig, target: int | None) -> None:
        """Sets the open inputs of a tower; a target of None leaves its width open too."""
        unset = [name for name in tower.inputs if self._input(name) is None]
        if target is None or (tower.combine == "concat" and len(unset) > 1):
            self._set(unset, WIDTH)
        elif tower.combine == "sum":
            self._set(unset, target)
        else:
            known = sum(self._input(name) or 0 for name in tower.inputs)
            self._set(unset, target - known)

    def _input(self, name: str) -> int | None:
        table = self._tables.get(name)
        if table is None:  # a number
            return 1
        dim = self._dims.get(table)
        return dim if dim is None else dim - self._bias_of(name)

    def _bias_of(self, name: str) -> int:
        return self._carried if name == "history" and self._tables[name] == "item" else 0

    def _set(self, names: list[str], width: int) -> None:
        for name in names:
            if name in self._tables and self._dims.get(self._tables[name]) is None:
                self._dims[self._tables[name]] = width + self._bias_of(name)


_IDS = ("user", "item", "history")
