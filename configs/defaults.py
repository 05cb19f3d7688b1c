"""Defaults that follow from other keys: what the user tower reads, whether items have a bias, the
temperature, the widths of tables, the horizon of averages.

Values that the document sets are kept. `RunConfig` is validated with the defaults filled in, and a saved
config contains them.
"""

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from configs.rules.ranking import complete_ranking, fill_widths
from configs.sections.dataset import DatasetConfig
from configs.sections.export import ExportConfig
from configs.sections.features import KeyedFeatureConfig
from configs.sections.models import DotBiasConfig, TowerConfig, TwoTowerConfig
from configs.sections.ranking import RankingConfig
from configs.sections.tables import EmbeddingConfig, TableConfig
from configs.sections.training import PolyakConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig

ConfigT = TypeVar("ConfigT")

WIDTH = 128
"""Width of the vectors of two towers, without the bias."""
DOT_BIAS_WIDTH = 64
"""Width of the rows of dot_bias, without their bias."""
FEATURE_WIDTH = 32
"""Width of the rows of side features."""
COSINE_TEMPERATURE = 0.15
"""Temperature with normalize, where scores lie in -1..1; without it they are unbounded, and it is 1."""
HISTORY_TEMPERATURE = 0.1
"""As COSINE_TEMPERATURE, if the user tower reads the history: such a model overfits less."""
HISTORY_LENGTH = 50
"""Length of histories if the model reads them."""
USER_STDDEV = 0.005
"""Standard deviation of initial user rows that are the whole vector or are added to the history: once
normalized, the usual noise would outweigh the first updates of a user with few rows."""
RATE_BESIDE_HISTORY = 0.002
"""Learning rate of lazy_adam on user rows that are added to the history, which describes users with few rows
better."""
SETTLED_HORIZON = 0.002
"""Fraction of the steps that averages cover if the rate falls: the weights settle by themselves, and a longer
average would lag behind them."""
MOVING_HORIZON = 0.05
"""As SETTLED_HORIZON, if the rate stays at its peak: only the average takes the noise out of the weights."""


OTHERS = "*"
"""Stands for all tables that are not named."""


def for_others(sections: dict[str, ConfigT], names: set[str], key: str) -> dict[str, ConfigT]:
    """Sections by table, with that of OTHERS given to all names without one.

    Args:
      sections: by table, or OTHERS.
      names: of all tables.
      key: that holds the sections, for messages.

    Raises:
      ValueError: there is a section of OTHERS, but all tables are named.
    """
    if OTHERS not in sections:
        return sections
    named = {name: section for name, section in sections.items() if name != OTHERS}
    if not (others := sorted(names - set(named))):
        raise ValueError(f"{key}.{OTHERS}: every table is named already; remove it")
    return named | dict.fromkeys(others, sections[OTHERS])


def complete_model(config: "RunConfig") -> TwoTowerConfig | DotBiasConfig | RankingConfig:
    """The model section with all defaults filled in but item_bias.

    Args:
      config: configs.schema.RunConfig, its tables as in the document.
    """
    model = config.model
    if isinstance(model, RankingConfig):
        return complete_ranking(config, model)
    if isinstance(model, DotBiasConfig):
        return model
    changes: dict[str, Any] = {}
    tower = model.user_tower
    if tower is None:
        inputs = ["user", "history"] if _reads_history(config.dataset) else ["user"]
        changes["user_tower"] = tower = TowerConfig(inputs=inputs, combine="sum")
        if "pooling" not in model.history.model_fields_set:
            changes["history"] = model.history.model_copy(update={"pooling": "sqrtn"})
    if getattr(model.loss, "temperature", 1.0) is None:
        cosine = HISTORY_TEMPERATURE if "history" in tower.inputs else COSINE_TEMPERATURE
        temperature = cosine if model.normalize else 1.0
        changes["loss"] = model.loss.model_copy(update={"temperature": temperature})
    return model.model_copy(update=changes)


def _reads_history(dataset: DatasetConfig) -> bool:
    """Whether the user tower reads the history by default: if histories are stored, or if the split gives
    held-out rows a past in train. With other splits measurements showed no gain from them, or a loss."""
    if dataset.history_length is not None:
        return dataset.history_length > 0
    return dataset.split.kind in ("leave_last_out", "given")


def complete_dataset(config: "RunConfig") -> DatasetConfig:
    """The dataset section with all defaults filled in; the config's model must be complete.

    Raises:
      ValueError: history_of is set, but no history is stored; as for_others.
    """
    length, of = config.dataset.history_length, config.dataset.history_of
    if length is None:
        length = HISTORY_LENGTH if "history" in config.model.inputs else 0
    if of and not length:
        raise ValueError(
            f"dataset.history_of: {of}, but no history is stored; set dataset.history_length above 0 (or let "
            "the model read history), or remove history_of"
        )
    if of is None and length:
        of = _history_of(config)
    counted = config.dataset.counted_rows or (
        "all" if isinstance(config.model, RankingConfig) else "positive"
    )
    keyed = {f.table_name for f in config.features.values() if isinstance(f, KeyedFeatureConfig)}
    ids = for_others(config.dataset.feature_ids, keyed, "dataset.feature_ids")
    changes = {"history_length": length, "history_of": of, "counted_rows": counted, "feature_ids": ids}
    return config.dataset.model_copy(update=changes)


def _history_of(config: "RunConfig") -> Literal["earlier", "others"] | None:
    """The default of dataset.history_of; None: `prepare` looks at the rows (pipelines/file_order.py)."""
    split = config.dataset.split.kind
    if config.source.roles.timestamp or split == "leave_last_out":
        return "earlier"
    if split == "given":
        return None if config.dataset.base is None else "earlier"  # `others` cannot continue a base
    return "others"


def complete_export(config: "RunConfig") -> ExportConfig:
    """The export section with cold_items filled in, if the model ranks items; it must be complete."""
    if config.export.cold_items is not None or isinstance(config.model, RankingConfig):
        return config.export
    return config.export.model_copy(
        update={"cold_items": "serve" if _describes_cold_items(config) else "leave_out"}
    )


def _describes_cold_items(config: "RunConfig") -> bool:
    """Whether the item tower was trained to describe items by what side tables say of them."""
    if not isinstance(config.model, TwoTowerConfig):
        return False
    tower = config.model.item_tower
    of_sides = {feature.name for side in config.source.sides for feature in side.features}
    return bool(of_sides & set(tower.inputs)) and ("item" not in tower.inputs or tower.id_dropout > 0)


def complete_polyak(config: "RunConfig") -> PolyakConfig:
    """The polyak section with its horizon_fraction filled in, unless another key replaces it."""
    polyak, schedule = config.polyak, config.schedule
    if polyak.horizon_fraction is not None or not polyak.needs_horizon:
        return polyak
    moving = schedule.decay == "constant" and schedule.cooldown_fraction == 0
    return polyak.model_copy(update={"horizon_fraction": MOVING_HORIZON if moving else SETTLED_HORIZON})


def complete_bias(config: "RunConfig") -> TwoTowerConfig | DotBiasConfig | RankingConfig:
    """The model section with item_bias filled in: true if the tables' widths allow it. Its towers must be
    complete."""
    model = config.model
    if not isinstance(model, TwoTowerConfig) or model.item_bias is not None:
        return model
    return model.model_copy(update={"item_bias": _leaves_room_for_bias(config, model)})


def complete_tables(config: "RunConfig") -> dict[str, EmbeddingConfig]:
    """All tables that the model reads, with their widths filled in.

    Args:
      config: configs.schema.RunConfig, its model complete.

    Raises:
      ValueError: no width of a table agrees with the widths in the document.
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
    elif isinstance(config.model, RankingConfig):
        fill_widths(config.model, dims)
    else:
        _Widths(config, config.model, dims).fill()
    return {
        name: table if table.dim is not None else _with_width(name, table, dims[name])
        for name, table in tables.items()
    }


def _user_rows(model: TwoTowerConfig, tables: dict[str, EmbeddingConfig]) -> dict[str, EmbeddingConfig]:
    """The user's table, with USER_STDDEV and RATE_BESIDE_HISTORY where the document sets nothing; {}: no
    change."""
    tower, table = model.user_tower, tables.get("user")
    if tower is None or table is None:
        return {}
    alone, added = tower.inputs == ["user"], sorted(tower.inputs) == ["history", "user"]
    if not (alone or (added and tower.combine == "sum")) or tower.layers or not model.normalize:
        return {}
    changes: dict[str, Any] = {} if "init_stddev" in table.model_fields_set else {"init_stddev": USER_STDDEV}
    optimizer = table.optimizer
    if added and optimizer.kind == "lazy_adam" and "learning_rate" not in optimizer.model_fields_set:
        changes["optimizer"] = optimizer.model_copy(update={"learning_rate": RATE_BESIDE_HISTORY})
    return {"user": table.model_copy(update=changes)}


def _with_width(name: str, table: EmbeddingConfig, width: int | None) -> EmbeddingConfig:
    if width is None or not 1 <= width <= 4096:
        raise ValueError(
            f"tables.{name}.dim: no width makes the two towers equally wide; change the other widths"
        )
    if table.kind == "robe_z" and table.block > width:
        raise ValueError(
            f"tables.{name}.block: {table.block} is larger than dim {width}; lower it, or set a larger dim"
        )
    return table.model_copy(update={"dim": width})


def _leaves_room_for_bias(config: "RunConfig", model: TwoTowerConfig) -> bool:
    """Whether the widths in the document let the item's vector be one longer than the user's."""
    tower, user_tower = model.item_tower, model.user_tower
    assert user_tower is not None, "complete_model comes first"
    if not tower.layers and tower.combine == "concat" and tower.inputs[-1] != "item":
        return False
    widths = _Widths(config, model, {name: table.dim for name, table in config.tables.items()})
    user, item = widths.of(user_tower), widths.of(tower)
    if item is None or (user is None and not tower.layers):
        return True
    return item == (user or 0) + 1


class _Widths:
    """Widths of the rows that two towers read; some are not known yet.

    Args:
      config: the run.
      model: its model, with both towers.
      dims: width by table; None or no entry: not known yet.
    """

    def __init__(self, config: "RunConfig", model: TwoTowerConfig, dims: dict[str, int | None]):
        self._model, self._tables, self._dims = model, config.table_of_input, dims
        self._features = config.features
        self._carried = int(config.item_rows_carry_bias)

    def of(self, tower: TowerConfig) -> int | None:
        """Width of a tower's vector; None: not known yet."""
        if tower.layers:
            return tower.layers[-1]
        widths = {name: self._input(name) for name in tower.inputs}
        if tower.combine == "sum":  # the schema refuses numeric inputs in a sum
            rows = [width for name, width in widths.items() if name in self._tables]
            return next((width for width in rows if width is not None), None)
        known = [width for width in widths.values() if width is not None]
        return sum(known) if len(known) == len(widths) else None

    def fill(self) -> None:
        """Gives every open table a width that makes the towers equally wide, if there is one."""
        bias = int(bool(self._model.item_bias))
        user, item = self._model.user_tower, self._model.item_tower
        assert user is not None, "complete_model comes first"
        for tower in (user, item):
            if tower.layers or tower.combine == "concat":
                self._set([name for name in tower.inputs if name not in _IDS], FEATURE_WIDTH)
            if tower.layers:
                self._set(tower.inputs, WIDTH)
        target = self.of(user)
        if target is None and (own := self.of(item)) is not None:
            target = own - bias
        self._fit(user, target)
        width = self.of(user)
        self._fit(item, None if width is None else width + bias)

    def _fit(self, tower: TowerConfig, target: int | None) -> None:
        """Sets the widths of a tower's open inputs; with a target of None its width may be any."""
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
        if table is None:  # numbers
            return getattr(self._features[name], "dim", 1)
        dim = self._dims.get(table)
        return dim if dim is None else dim - self._bias_of(name)

    def _bias_of(self, name: str) -> int:
        return self._carried if name == "history" and self._tables[name] == "item" else 0

    def _set(self, names: list[str], width: int) -> None:
        for name in names:
            if name in self._tables and self._dims.get(self._tables[name]) is None:
                self._dims[self._tables[name]] = width + self._bias_of(name)


_IDS = ("user", "item", "history")
