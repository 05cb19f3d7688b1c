"""The whole run in one document: every key a YAML may hold."""

from pydantic import Field, model_validator

from configs.defaults import complete_bias, complete_dataset, complete_model, complete_tables
from configs.sections.base import Section
from configs.sections.dataset import DatasetConfig, VocabIdsConfig
from configs.sections.devices import CpuDeviceConfig, DeviceConfig
from configs.sections.evaluation import EvaluateConfig
from configs.sections.export import ExportConfig
from configs.sections.launch import LaunchConfig, LocalLaunchConfig, check_launch
from configs.sections.models import DRAWN, DotBiasConfig, ModelConfig, TwoTowerConfig
from configs.sections.optimizers import AdamConfig, DenseOptimizer
from configs.sections.sources import SourceConfig
from configs.sections.tables import EmbeddingConfig
from configs.sections.training import (
    CheckpointConfig,
    OutputConfig,
    PolyakConfig,
    ScheduleConfig,
    TrainConfig,
)
from configs.system.pythons import missing_addons
from configs.tpu_rules import check_tpu


class RunConfig(Section):
    """One run, from raw interactions to a served model."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9_.-]+$")
    """Name shown in reports."""
    source: SourceConfig
    """Where raw interactions are."""
    dataset: DatasetConfig
    """How they become shards, and where."""
    model: ModelConfig = TwoTowerConfig()
    """What is trained."""
    tables: dict[str, EmbeddingConfig] = {}
    """Embedding tables by name: user, item, history, or a categorical side feature."""
    optimizer: DenseOptimizer = AdamConfig()
    """Optimizer of the towers' dense weights."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning rates over the run."""
    polyak: PolyakConfig = PolyakConfig()
    """Averaging of weights."""
    train: TrainConfig
    """Length and pace."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """Saving."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Ranking metrics."""
    export: ExportConfig = ExportConfig()
    """Serving."""
    device: DeviceConfig = CpuDeviceConfig()
    """Where it trains."""
    launch: LaunchConfig = LocalLaunchConfig()
    """Where `lazytower submit` runs it."""
    output: OutputConfig
    """Where results go."""

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
        """Table name of each of the model's inputs that is looked up; numeric features are absent."""
        numeric = {f.name for f in self.source.features if f.kind == "numeric"}
        history = self.model.history.table if isinstance(self.model, TwoTowerConfig) else "history"
        return {n: history if n == "history" else n for n in self.model.inputs if n not in numeric}

    @property
    def ids_of_batch(self) -> dict[str, dict[str, tuple[int, ...]]]:
        """Shapes of the ids that a training batch looks up, by table and input; `negative/` where drawn."""
        batch, found = self.train.batch_size, {}
        for name, table in self.table_of_input.items():
            shape = (batch, self.dataset.history_length) if name == "history" else (batch,)
            found.setdefault(table, {})[name] = shape
        for name, shape in self.model.drawn(batch).items():
            if table := self.table_of_input.get(name):
                found[table][DRAWN + name] = shape
        return found

    def uneven(self, parts: int) -> str:
        """The key, with its value, of what cannot be cut into so many equal parts; empty: all can."""
        sizes = {"train.batch_size": self.train.batch_size}
        if isinstance(self.model, TwoTowerConfig):
            sizes["model.loss.extra_negatives"] = self.model.loss.extra_negatives
        return next((f"{key} {size}" for key, size in sizes.items() if size % parts), "")

    @model_validator(mode="before")
    @classmethod
    def _split_follows_time(cls, values):
        # Only here is the source known. The default is written into the section, so a saved config has it.
        if not isinstance(values, dict):
            return values
        source, dataset = values.get("source"), values.get("dataset")
        if not isinstance(source, dict) or not isinstance(dataset, dict) or "split" in dataset:
            return values
        roles = source.get("roles")
        timed = source.get("kind") == "synthetic" or (isinstance(roles, dict) and roles.get("timestamp"))
        kind = "temporal" if timed else "random"
        return values | {"dataset": dataset | {"split": {"kind": kind}}}

    @model_validator(mode="after")
    def _model_follows(self):
        # Sections are frozen for everyone else; here the document is still being read.
        self.__dict__["model"] = complete_model(self)
        self.__dict__["dataset"] = complete_dataset(self)
        return self

    @model_validator(mode="after")
    def _inputs_exist(self):
        sides = {f.name: f.of for f in self.source.features}
        known = {"user", "item", "history", *sides}
        for name in self.model.inputs:
            if name not in known:
                raise ValueError(f"model input {name!r} is no feature; known: {', '.join(sorted(known))}")
        if isinstance(self.model, TwoTowerConfig):
            for side, tower in (("user", self.model.user_tower), ("item", self.model.item_tower)):
                for name in tower.inputs:
                    if sides.get(name, side) != side:
                        raise ValueError(f"{side}_tower.inputs holds {name!r}, a feature of the other side")
        if "history" in self.model.inputs and self.dataset.history_length == 0:
            raise ValueError("a tower reads history: set dataset.history_length above 0")
        return self

    @model_validator(mode="after")
    def _tables_are_used(self):
        used = set(self.table_of_input.values())
        for name in self.tables:
            if name not in used:
                in_use = ", ".join(sorted(used))
                raise ValueError(f"tables.{name} is read by no tower; tables in use: {in_use}")
        return self

    @model_validator(mode="after")
    def _tables_follow(self):
        self.__dict__["model"] = complete_bias(self)
        self.__dict__["tables"] = complete_tables(self)
        return self

    @model_validator(mode="after")
    def _ids_fit(self):
        categorical = {f.name for f in self.source.features if f.kind == "categorical"}
        for name in self.dataset.feature_ids:
            if name not in categorical:
                raise ValueError(f"dataset.feature_ids.{name} names no categorical feature of the source")
        if (self.dataset.split.kind == "given") != (self.source.roles.split is not None):
            raise ValueError("dataset.split.kind: given and source.roles.split go together")
        if self.dataset.min_label is not None and self.source.roles.label is None:
            raise ValueError("dataset.min_label needs source.roles.label")
        if isinstance(self.dataset.positive, float) and self.source.roles.label is None:
            raise ValueError("dataset.positive: a number needs source.roles.label")
        return self

    @model_validator(mode="after")
    def _device_can(self):
        if self.device.kind == "tpu":
            check_tpu(self)
        elif odd := self.uneven(self.device.replicas):
            raise ValueError(f"{odd} is no multiple of device.replicas {self.device.replicas}")
        return self

    @model_validator(mode="after")
    def _engines_exist(self):
        for name, table in self.tables.items():
            if getattr(table, "engine", None) == "tfa" and (reason := missing_addons()):
                raise ValueError(
                    f"tables.{name}.engine: tfa: {reason}; use native (rows if there is no C++ compiler), or "
                    "Python 3.10 or 3.11"
                )
        return self

    @model_validator(mode="after")
    def _tail_is_kept(self):
        if self.polyak.tail > self.checkpoint.keep:
            raise ValueError(
                f"polyak: tail_average needs {self.polyak.tail} checkpoints, checkpoint.keep is "
                f"{self.checkpoint.keep}: raise it, or lower polyak.checkpoints"
            )
        return self

    @model_validator(mode="after")
    def _launch_fits(self):
        check_launch(self)
        return self

    @model_validator(mode="after")
    def _labels_exist(self):
        if (
            isinstance(self.model, DotBiasConfig)
            and not self.model.negatives
            and self.source.roles.label is None
        ):
            raise ValueError(
                "model: dot_bias on rows without labels sees positives only: give source.roles.label, or set "
                "model.negatives above 0"
            )
        return self

    @model_validator(mode="after")
    def _widths_fit(self):
        if isinstance(self.model, DotBiasConfig):
            dims = {self.table(n).dim for n in ("user", "item")}
            if len(dims) > 1 or min(dims) < 2:
                raise ValueError("dot_bias needs tables.user.dim == tables.item.dim >= 2 (last column: bias)")
        else:
            user, item = (self.tower_width(t) for t in (self.model.user_tower, self.model.item_tower))
            if user + int(self.model.item_bias) != item:
                more = " + 1 (item_bias)" if self.model.item_bias else ""
                raise ValueError(f"user tower gives {user} values{more}, item tower {item}: they must agree")
        return self

    def tower_width(self, tower) -> int:
        """Width of a tower's vector; ValueError when `sum` joins unequal widths."""
        if tower.layers:
            return tower.layers[-1]
        widths = [self.input_width(name) for name in tower.inputs]
        if tower.combine == "sum":
            if len(set(widths)) > 1:
                raise ValueError(f"combine: sum needs equal widths, inputs {tower.inputs} have {widths}")
            return widths[0]
        return sum(widths)

    def input_width(self, name: str) -> int:
        """Width of one input of a tower: its table's dim (less a shared item bias), 1 when numeric."""
        table = self.table_of_input.get(name)
        if table is None:
            return 1
        bias = name == "history" and table == "item" and self.item_rows_carry_bias
        return self.table(table).dim - int(bias)

    @property
    def item_rows_carry_bias(self) -> bool:
        """Whether the last column of the item table is the bias (no layers between row and score)."""
        return self.model.kind == "two_tower" and self.model.item_bias and not self.model.item_tower.layers

    def ids_of(self, name: str):
        """The ids section of a table: user_ids, item_ids (also for history) or the feature's."""
        if name == "user":
            return self.dataset.user_ids
        if name in ("item", "history"):
            return self.dataset.item_ids
        return self.dataset.feature_ids.get(name, VocabIdsConfig())
