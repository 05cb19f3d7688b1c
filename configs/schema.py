"""The whole run in one document: every key that a YAML may contain."""

import math
from typing import Any

from pydantic import Field, model_validator

from configs.defaults import (
    complete_bias,
    complete_dataset,
    complete_export,
    complete_model,
    complete_polyak,
    complete_tables,
    for_others,
)
from configs.rules.cluster import check_cluster
from configs.rules.day import check_day
from configs.rules.ranking import check_ranking, complete_bottom, without_owners
from configs.rules.sequence import check_sequence
from configs.rules.towers import check_dropped_ids, check_group, check_tower
from configs.rules.tpu import check_tpu
from configs.sections.base import Section
from configs.sections.dataset import DatasetConfig, HashIdsConfig, IdsConfig, VocabIdsConfig
from configs.sections.devices import CpuDeviceConfig, DeviceConfig
from configs.sections.evaluation import EvaluateConfig
from configs.sections.export import ExportConfig
from configs.sections.features import (
    CrossFeatureConfig,
    FeatureConfig,
    KeyedFeatureConfig,
    ListFeatureConfig,
    NumericFeatureConfig,
    VectorFeatureConfig,
    table_of,
)
from configs.sections.launch import LaunchConfig, LocalLaunchConfig, check_launch
from configs.sections.models import DRAWN, DotBiasConfig, ModelConfig, TowerConfig, TwoTowerConfig
from configs.sections.optimizers import AdamConfig, DenseOptimizer
from configs.sections.ranking import RankingConfig
from configs.sections.sources import SourceConfig
from configs.sections.tables import EmbeddingConfig
from configs.sections.training import (
    CheckpointConfig,
    DayConfig,
    InitConfig,
    OutputConfig,
    PolyakConfig,
    ScheduleConfig,
    TrainConfig,
)
from configs.system.pythons import missing_addons


class RunConfig(Section):
    """One run, from raw interactions to a served model."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9_.-]+$")
    """Name of the run, shown in reports."""
    source: SourceConfig
    """Where raw interactions come from."""
    dataset: DatasetConfig
    """How raw interactions become a dataset, and where it is kept."""
    model: ModelConfig = TwoTowerConfig()
    """The model."""
    tables: dict[str, EmbeddingConfig] = {}
    """Embedding tables by name: user, item, history, or that of features (their own name, unless they name a
    table); '*': all tables that the model reads and that are not named."""
    optimizer: DenseOptimizer = AdamConfig()
    """Optimizer of the towers' dense weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rates over the run."""
    polyak: PolyakConfig = PolyakConfig()
    """Averaging of weights (Polyak)."""
    train: TrainConfig
    """Length of the run, its batches and its seed."""
    init: InitConfig | None = None
    """Another run whose weights this one starts from; null: random weights."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Checkpoints."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Metrics."""
    export: ExportConfig = ExportConfig()
    """The served model."""
    device: DeviceConfig = CpuDeviceConfig()
    """Where the run trains."""
    launch: LaunchConfig = LocalLaunchConfig()
    """Where `lazytower submit` runs the job."""
    day: DayConfig = DayConfig()
    """The daily job, `lazytower day`."""
    output: OutputConfig
    """Where results are kept."""

    def table(self, name: str) -> EmbeddingConfig:
        """The configuration of a table that the model reads."""
        return self.tables[name]

    @property
    def export_path(self) -> str:
        return self.export.path or f"{self.output.path.rstrip('/')}/export"

    @property
    def jobs_path(self) -> str:
        """Directory of the run's jobs."""
        return self.launch.staging or f"{self.output.path.rstrip('/')}/jobs"

    @property
    def table_of_input(self) -> dict[str, str]:
        """Table of each model input that is looked up in one; features that enter as numbers are absent."""
        history = "history" if isinstance(self.model, DotBiasConfig) else self.model.history.table
        found = {"user": "user", "item": "item", "history": history}
        tables = found | {name: table for name, f in self.features.items() if (table := table_of(f))}
        return {name: tables[name] for name in self.model.inputs if name in tables}

    @property
    def features(self) -> dict[str, FeatureConfig]:
        """All features of the source and its side tables, by name."""
        return {feature.name: feature for feature in self.source.all_features}

    @property
    def ids_of_batch(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the ids that a training batch looks up, by table and input; sampled negatives begin with
        DRAWN."""
        batch = self.train.batch_size
        found: dict[str, dict[str, tuple[int, ...]]] = {}
        for name, table in self.table_of_input.items():
            rows = self.examples_per_step if name == "item" else batch
            found.setdefault(table, {})[name] = (rows, *self.length_of(name))
        for name, shape in self.model.drawn(batch).items():
            if name in self.table_of_input:
                found[self.table_of_input[name]][DRAWN + name] = (*shape, *self.length_of(name))
        return found

    @property
    def examples_per_step(self) -> int:
        """Targets of a batch, padding included: its rows or, with user_tower.sequence, their positions."""
        positions = self.length_of("history") if getattr(self.model, "sequence", None) else ()
        return math.prod((self.train.batch_size, *positions))

    def length_of(self, name: str) -> tuple[int, ...]:
        """(length,) of an input that is a list of ids in each row: history and list features; else ()."""
        if name == "history":
            return (self.dataset.history_length or 0,)
        feature = self.features.get(name)
        return (feature.max_length,) if isinstance(feature, ListFeatureConfig) else ()

    def uneven(self, parts: int) -> str:
        """A key and its value that is not divisible by `parts`, as text; empty: all are divisible."""
        extra = getattr(getattr(self.model, "loss", None), "extra_negatives", 0)
        sizes = {"train.batch_size": self.train.batch_size, "model.loss.extra_negatives": extra}
        return next((f"{key}: {size}" for key, size in sizes.items() if size % parts), "")

    @model_validator(mode="before")
    @classmethod
    def _split_follows_time(cls, values: Any) -> Any:
        # Only the whole run knows its source. The default is written into the section, so that a saved config
        # has it.
        if not isinstance(values, dict):
            return values
        values = without_owners(values)
        source, dataset = values.get("source"), values.get("dataset")
        if not isinstance(source, dict) or not isinstance(dataset, dict) or "split" in dataset:
            return values
        roles = source.get("roles")
        synthetic = str(source.get("kind")).startswith("synthetic")
        timed = synthetic or (isinstance(roles, dict) and roles.get("timestamp"))
        kind = "temporal" if timed else "random"
        return values | {"dataset": dataset | {"split": {"kind": kind}}}

    @model_validator(mode="after")
    def _model_follows(self) -> "RunConfig":
        # Sections are frozen once they are read; this document is still being read.
        self.__dict__["model"] = complete_model(self)
        self.__dict__["dataset"] = complete_dataset(self)
        self.__dict__["export"] = complete_export(self)
        self.__dict__["polyak"] = complete_polyak(self)
        self.__dict__["tables"] = for_others(self.tables, set(self.table_of_input.values()), "tables")
        return self

    @model_validator(mode="after")
    def _inputs_exist(self) -> "RunConfig":
        # A model has no side of its own for the row: what is of the context describes the request.
        sides = {name: "item" if f.of == "item" else "user" for name, f in self.features.items()}
        known = {"user", "item", "history", *sides}
        for name in self.model.inputs:
            if name not in known:
                raise ValueError(f"model input {name!r} is not a feature; known: {', '.join(sorted(known))}")
        if isinstance(self.model, TwoTowerConfig):
            for side, tower in zip(("user", "item"), self._towers(self.model), strict=True):
                check_tower(self, side, tower.inputs)
                check_dropped_ids(self, side, tower)
        if "history" in self.model.inputs and self.dataset.history_length == 0:
            raise ValueError("dataset.history_length: 0, but the model reads history; set it above 0")
        return self

    @model_validator(mode="after")
    def _cold_items_differ(self) -> "RunConfig":
        if isinstance(self.model, RankingConfig):
            return self
        if isinstance(self.model, TwoTowerConfig) and self.model.item_tower.inputs != ["item"]:
            return self
        for key, value, other in (("evaluate", "only", "miss"), ("export", "serve", "leave_out")):
            if getattr(self, key).cold_items == value:
                raise ValueError(
                    f"{key}.cold_items: {value} needs features to tell cold items apart, but the model reads "
                    f"none of the item; add one to model.item_tower.inputs, or use {other}"
                )
        return self

    @model_validator(mode="after")
    def _cold_users_differ(self) -> "RunConfig":
        telling = {"history", *(name for name, feature in self.features.items() if feature.of == "user")}
        towers = self._towers(self.model) if isinstance(self.model, TwoTowerConfig) else ()
        if self.evaluate.cold_users == "rank" and not (towers and telling & set(towers[0].inputs)):
            raise ValueError(
                "evaluate.cold_users: rank needs the history or a feature of the user, but the model reads "
                "none; add one to model.user_tower.inputs, or use skip"
            )
        return self

    @model_validator(mode="after")
    def _tables_are_used(self) -> "RunConfig":
        used = set(self.table_of_input.values())
        for name in self.tables:
            if name not in used:
                in_use = ", ".join(sorted(used))
                raise ValueError(
                    f"tables.{name}: the model does not read it; rename or remove it (in use: {in_use})"
                )
        return self

    @model_validator(mode="after")
    def _tables_follow(self) -> "RunConfig":
        self.__dict__["model"] = complete_bias(self)
        self.__dict__["tables"] = complete_tables(self)
        if isinstance(self.model, RankingConfig):
            self.__dict__["model"] = complete_bottom(self, self.model)
        return self

    @model_validator(mode="after")
    def _ranking_fits(self) -> "RunConfig":
        check_ranking(self)
        check_sequence(self)
        return self

    @model_validator(mode="after")
    def _ids_fit(self) -> "RunConfig":
        tables = {f.table_name for f in self.features.values() if isinstance(f, KeyedFeatureConfig)}
        for name in self.dataset.feature_ids:
            if name not in tables:
                raise ValueError(
                    f"dataset.feature_ids.{name}: not the table of a categorical or list feature; remove it"
                )
        for name, feature in self.features.items():
            table = table_of(feature)
            if table in ("user", "item", "history") or (
                not isinstance(feature, KeyedFeatureConfig) and table in tables
            ):
                raise ValueError(f"feature {name!r}: table {table!r} is already in use; choose another name")
        if (self.dataset.split.kind == "given") != (self.source.roles.split is not None):
            raise ValueError(
                "dataset.split.kind: given and source.roles.split require each other; set both or neither"
            )
        if self.dataset.min_label is not None and self.source.roles.label is None:
            raise ValueError("dataset.min_label requires source.roles.label; set that or remove min_label")
        if isinstance(self.dataset.positive, float) and self.source.roles.label is None:
            raise ValueError(
                "dataset.positive: a number requires source.roles.label; set that or use above_zero"
            )
        return self

    @model_validator(mode="after")
    def _device_can(self) -> "RunConfig":
        check_group(self)
        check_tpu(self)
        check_cluster(self)
        return self

    @model_validator(mode="after")
    def _engines_exist(self) -> "RunConfig":
        for name, table in self.tables.items():
            if getattr(table, "engine", None) == "tfa" and (reason := missing_addons()):
                raise ValueError(
                    f"tables.{name}.engine: tfa: {reason}; use native (rows if there is no C++ compiler), or "
                    "Python 3.10 or 3.11"
                )
        return self

    @model_validator(mode="after")
    def _tail_is_kept(self) -> "RunConfig":
        if self.polyak.tail > self.checkpoint.keep:
            raise ValueError(
                f"checkpoint.keep: {self.checkpoint.keep} is less than the {self.polyak.tail} checkpoints of "
                "polyak.kind tail_average; raise it, or lower polyak.checkpoints"
            )
        return self

    @model_validator(mode="after")
    def _days_fit(self) -> "RunConfig":
        check_day(self)
        return self

    @model_validator(mode="after")
    def _launch_fits(self) -> "RunConfig":
        check_launch(self)
        return self

    @model_validator(mode="after")
    def _labels_exist(self) -> "RunConfig":
        if (
            isinstance(self.model, DotBiasConfig)
            and not self.model.negatives
            and self.source.roles.label is None
        ):
            raise ValueError(
                "model: dot_bias without labels sees positives only; set source.roles.label, or set "
                "model.negatives above 0"
            )
        return self

    @model_validator(mode="after")
    def _widths_fit(self) -> "RunConfig":
        if isinstance(self.model, DotBiasConfig):
            dims = {self._dim(name) for name in ("user", "item")}
            if len(dims) > 1 or min(dims) < 2:
                raise ValueError(
                    "dot_bias: tables.user.dim and tables.item.dim must be equal and at least 2 (the last "
                    "column is the bias)"
                )
        elif isinstance(self.model, TwoTowerConfig):
            user, item = map(self.tower_width, self._towers(self.model))
            if user + int(bool(self.model.item_bias)) != item:
                more = " + 1 (item_bias)" if self.model.item_bias else ""
                raise ValueError(
                    f"the user tower is {user} wide{more}, the item tower {item}; make them equal"
                )
        return self

    @staticmethod
    def _towers(model: TwoTowerConfig) -> tuple[TowerConfig, TowerConfig]:
        """User and item tower."""
        assert model.user_tower is not None, "complete_model fills it in"
        return model.user_tower, model.item_tower

    def _dim(self, table: str) -> int:
        """Width of the rows of a table."""
        dim = self.table(table).dim
        assert dim is not None, "complete_tables fills it in"
        return dim

    def tower_width(self, tower: TowerConfig) -> int:
        """Width of a tower's vector; ValueError if `sum` combines unequal widths."""
        if tower.layers:
            return tower.layers[-1]
        widths = [self.input_width(name) for name in tower.inputs]
        if tower.combine == "sum":
            for name in tower.inputs:
                feature = self.features.get(name)
                if isinstance(feature, NumericFeatureConfig) and feature.buckets is None:
                    raise ValueError(
                        f"combine: sum cannot add the number {name!r} to vectors; use combine: concat, or "
                        "give the feature buckets"
                    )
            if len(set(widths)) > 1:
                raise ValueError(f"combine: sum requires equal widths; inputs {tower.inputs} have {widths}")
            return widths[0]
        return sum(widths)

    def input_width(self, name: str) -> int:
        """Width of one input of a tower: its table's dim (less a shared item bias), or the number of its
        values."""
        table = self.table_of_input.get(name)
        if table is None:
            feature = self.features[name]
            return feature.dim if isinstance(feature, VectorFeatureConfig) else 1
        bias = name == "history" and table == "item" and self.item_rows_carry_bias
        return self._dim(table) - int(bias)

    @property
    def item_rows_carry_bias(self) -> bool:
        """Whether the last column of the item table is the bias (no layers between row and score)."""
        model = self.model
        return isinstance(model, TwoTowerConfig) and bool(model.item_bias) and not model.item_tower.layers

    def ids_of(self, name: str) -> IdsConfig:
        """The ids section of a table: user_ids, item_ids (also for history) or that of features."""
        if name == "user":
            return self.dataset.user_ids
        if name in ("item", "history"):
            return self.dataset.item_ids
        feature = self.features.get(name)
        if isinstance(feature, CrossFeatureConfig):
            return HashIdsConfig(kind="hash", rows=feature.rows)
        return self.dataset.feature_ids.get(name, VocabIdsConfig())
