"""Defaults and checks of model.kind ranking that need the whole document."""

from typing import TYPE_CHECKING, Any

from configs.rules.segments import check_segments
from configs.sections.dataset import VocabIdsConfig
from configs.sections.export import ExportConfig
from configs.sections.features import ListFeatureConfig, table_of
from configs.sections.ranking import MAIN_LABEL, DotInteractionConfig, EsmmConfig, RankingConfig, TaskConfig
from configs.sections.roles import RolesConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig

WIDTH = 16
"""Width of the rows of all tables."""


def without_owners(values: dict[str, Any]) -> dict[str, Any]:
    """A raw document in which source.roles.user and item are null unless it names them, if its model is of
    kind ranking."""
    source, model = values.get("source"), values.get("model")
    if not isinstance(source, dict) or not isinstance(model, dict) or model.get("kind") != "ranking":
        return values
    roles = source.get("roles", {})
    if str(source.get("kind")).startswith("synthetic") or not isinstance(roles, dict):
        return values
    return values | {"source": source | {"roles": {"user": None, "item": None} | roles}}


def label_names(roles: RolesConfig) -> list[str]:
    """Labels that tasks may name."""
    return [*([MAIN_LABEL] if roles.label is not None else []), *roles.learned_labels]


def complete_ranking(config: "RunConfig", model: RankingConfig) -> RankingConfig:
    """The model section with inputs and tasks filled in; bottom follows from the tables.

    Raises:
      ValueError: there is not exactly one label to make the task of.
    """
    changes: dict[str, Any] = {}
    roles = config.source.roles
    if not model.inputs:
        owners = [name for name in ("user", "item") if getattr(roles, name) is not None]
        changes["inputs"] = [*owners, *config.features]
    if not model.tasks:
        labels = label_names(roles)
        if len(labels) != 1:
            raise ValueError(
                f"model.tasks: name them, because the source has {len(labels)} labels"
                + (f": {', '.join(labels)}" if labels else "; set source.roles.label or labels")
            )
        changes["tasks"] = [TaskConfig(name=labels[0], label=labels[0])]
    return model.model_copy(update=changes)


def complete_bottom(config: "RunConfig", model: RankingConfig) -> RankingConfig:
    """The model section with bottom filled in; the config's tables must be complete."""
    if model.bottom is not None:
        return model
    bottom = []
    if isinstance(model.interaction, DotInteractionConfig) and dense_inputs(config, model):
        bottom = [next(iter(_table_widths(config, model).values()), WIDTH)]
    return model.model_copy(update={"bottom": bottom})


def fill_widths(model: RankingConfig, dims: dict[str, int | None]) -> None:
    """Gives every table without a width one: with dot that of the others or of bottom, else WIDTH."""
    width = WIDTH
    if isinstance(model.interaction, DotInteractionConfig):
        known = [*(dim for dim in dims.values() if dim), *((model.bottom or [])[-1:])]
        width = known[0] if known else WIDTH
    for name, dim in dims.items():
        dims[name] = dim or width


def dense_inputs(config: "RunConfig", model: RankingConfig) -> list[str]:
    """Inputs without a table: numbers and vectors."""
    return [name for name in model.inputs if name in config.features and not table_of(config.features[name])]


def _table_widths(config: "RunConfig", model: RankingConfig) -> dict[str, int]:
    return {name: config.input_width(name) for name in model.inputs if name in config.table_of_input}


def check_ranking(config: "RunConfig") -> None:
    """Raises ValueError, naming keys, if a ranking model does not fit the rest of the document, or another
    model uses what only ranking models have."""
    model = config.model
    _check_evaluation(config)
    if not isinstance(model, RankingConfig):
        _check_other(config)
        return
    _check_inputs(config, model)
    _check_tasks(config, model)
    _check_widths(config, model)
    _check_thinning(config, model)
    _check_export(config)


def _check_evaluation(config: "RunConfig") -> None:
    evaluate, family = config.evaluate, config.model.family
    if key := evaluate.foreign_key(family):
        raise ValueError(f"evaluate.{key}: models of kind {config.model.kind} do not have it; remove it")
    features, roles = config.features, config.source.roles
    keyed = [name for name, feature in features.items() if table_of(feature)]
    check_segments(config)
    owners = [name for name in ("user", "item") if getattr(roles, name) is not None]
    single = [name for name in keyed if not isinstance(features[name], ListFeatureConfig)]
    if evaluate.group_by is not None and evaluate.group_by not in [*owners, *single]:
        raise ValueError(
            f"evaluate.group_by: {evaluate.group_by!r} is not a feature with one key a row; known: "
            f"{', '.join([*owners, *single]) or 'none'}"
        )


def _check_other(config: "RunConfig") -> None:
    roles = config.source.roles
    for name in ("user", "item"):
        if getattr(roles, name) is None:
            raise ValueError(
                f"source.roles.{name}: null requires model.kind: ranking; name the column, or use that model"
            )
    if roles.labels:
        raise ValueError("source.roles.labels requires model.kind: ranking; remove it, or use that model")
    if config.dataset.counted_rows == "all":
        raise ValueError(
            "dataset.counted_rows: all requires model.kind: ranking, because popularity and trained items of "
            "other models are those of positive rows; remove it"
        )
    if config.dataset.keep_negatives < 1:
        raise ValueError(
            "dataset.keep_negatives requires model.kind: ranking, which corrects its probabilities for it; "
            "remove it"
        )


def _check_inputs(config: "RunConfig", model: RankingConfig) -> None:
    roles = config.source.roles
    needs = {"user": ("user",), "item": ("item",), "history": ("user", "item")}
    for name in model.inputs:
        for role in needs.get(name, ()):
            if getattr(roles, role) is None:
                raise ValueError(
                    f"model.inputs: {name} requires source.roles.{role}; name the column, or remove {name}"
                )
    for feature in config.features.values():
        if feature.of in ("user", "item") and getattr(roles, feature.of) is None:
            raise ValueError(
                f"feature {feature.name!r}: of: {feature.of} requires source.roles.{feature.of}; name the "
                "column, or use of: context"
            )
    for kind in ("user", "item"):  # a saved config has the defaults
        if getattr(roles, kind) is None and config.ids_of(kind) != VocabIdsConfig():
            raise ValueError(
                f"dataset.{kind}_ids requires source.roles.{kind}; name the column, or remove {kind}_ids"
            )
    if config.dataset.split.kind == "leave_last_out" and roles.user is None:
        raise ValueError(
            "dataset.split.kind: leave_last_out requires source.roles.user; name the column, or use "
            "temporal, random or given"
        )
    if config.dataset.history_length and None in (roles.user, roles.item):
        raise ValueError(
            "dataset.history_length requires source.roles.user and item; name the columns, or remove it"
        )
    if not model.inputs:
        raise ValueError("model.inputs: the source has no features; add one to source.features")


def _check_tasks(config: "RunConfig", model: RankingConfig) -> None:
    known = label_names(config.source.roles)
    for task in model.tasks:
        for key, label in (("label", task.label), ("where", task.where)):
            if label is not None and label not in known:
                raise ValueError(
                    f"model.tasks: {key} {label!r} of task {task.name!r} is not a label of the source; "
                    f"known: {', '.join(known) or 'none'} (source.roles.label and labels)"
                )


def _check_widths(config: "RunConfig", model: RankingConfig) -> None:
    if not isinstance(model.interaction, DotInteractionConfig):
        return
    widths: dict[str, int] = _table_widths(config, model)
    if dense_inputs(config, model):
        if not model.bottom:
            raise ValueError(
                "model.bottom: [] leaves numbers as they are, which dot cannot combine with rows of tables; "
                "name widths, the last one that of the tables"
            )
        widths["the output of bottom"] = model.bottom[-1]
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"model.interaction: dot requires equal widths, found {_text(widths)}; set tables.<name>.dim and "
            "the last width of model.bottom alike"
        )
    if len(widths) < 2:
        raise ValueError("model.interaction: dot requires two vectors or more; use none, or add inputs")


def _text(widths: dict[str, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in widths.items())


def _check_thinning(config: "RunConfig", model: RankingConfig) -> None:
    if config.dataset.keep_negatives == 1:
        return
    if corrected_tasks(config.source.roles, model) is None:
        raise ValueError(
            "dataset.keep_negatives: with several labels, the corrected probability is exact only if all "
            "tasks but the first have `where` of the first one's label, or with sharing: esmm; change tasks, "
            "or remove keep_negatives"
        )


def _check_export(config: "RunConfig") -> None:
    """A saved config has the defaults, which are fine."""
    for name in ("exclude_seen", "cold_items", "max_k", "index"):
        if getattr(config.export, name) != ExportConfig.model_fields[name].default:
            raise ValueError(
                f"export.{name} is of models that recommend items, not of model.kind: ranking; remove it"
            )


def corrected_tasks(roles: RolesConfig, model: RankingConfig) -> list[str] | None:
    """Tasks whose probability is corrected for dataset.keep_negatives; None: there is no exact correction.

    A negative row has only zeros as labels. With one label the correction is exact. With several it is so if
    the first task's label is 1 wherever another one is, which esmm and `where` assume: then a negative row is
    one in which the first label is 0, and among the other rows, which are all kept, the other labels are
    distributed as before.
    """
    first = model.tasks[0]
    if first.loss != "bce" or first.where is not None or any(task.loss != "bce" for task in model.tasks):
        return None
    if isinstance(model.sharing, EsmmConfig):
        return [first.name]
    if len(label_names(roles)) == 1:
        return [task.name for task in model.tasks]
    return [first.name] if all(task.where == first.label for task in model.tasks[1:]) else None
