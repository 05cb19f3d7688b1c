"""Checks that a dataset was prepared with the sections of a config."""

from configs.errors import DataError
from configs.manifest import Dataset
from configs.schema import RunConfig

_KEYS = (
    "user_ids item_ids feature_ids split history_length history_of min_label positive duplicates "
    "counted_rows keep_negatives".split()
)


def check_dataset(config: RunConfig, dataset: Dataset) -> None:
    """Refuses a dataset that was prepared with other sections than the config's.

    Raises:
      DataError: names the key, both values and the fix.
    """
    prepared = dataset.section
    wanted = config.dataset.model_dump(mode="json")
    for key in _KEYS:
        if key == "history_of" and wanted[key] is None:
            continue  # `prepare` chose it
        if prepared.get(key) != wanted[key]:
            raise DataError(
                f"{dataset.path}: prepared with dataset.{key} {prepared.get(key)}, but the config has "
                f"{wanted[key]}; run `lazytower prepare --overwrite`, or correct the config"
            )
    _check_owners_and_labels(config, dataset)
    for feature in config.source.all_features:
        found = dataset.features.get(feature.name)
        if found is None or (found.of, found.kind) != (feature.of, feature.kind):
            raise DataError(
                f"{dataset.path}: has no {feature.kind} {feature.of} feature {feature.name!r}; "
                "run `lazytower prepare --overwrite`"
            )


def _check_owners_and_labels(config: RunConfig, dataset: Dataset) -> None:
    roles = config.source.roles
    for name in ("user", "item"):
        has, wants = name in dataset.tables, getattr(roles, name) is not None
        if has != wants:
            raise DataError(
                f"{dataset.path}: prepared {'with' if has else 'without'} source.roles.{name}, but the "
                f"config {'names' if wants else 'lacks'} it; run `lazytower prepare --overwrite`, or correct "
                "the config"
            )
    if missing := [name for name in roles.labels if name not in dataset.labels]:
        raise DataError(
            f"{dataset.path}: has no label {', '.join(missing)} (source.roles.labels); run "
            "`lazytower prepare --overwrite`"
        )
