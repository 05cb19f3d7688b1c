"""Opens the model that a run starts from (the section `init`) on the run's own dataset, for evaluation.

Its rows stand where the run would begin with them. Keys that the other run does not know read its
out-of-vocabulary row, as they do when its exported model is asked; without such a row (hashed ids) each key
has a row in both runs.
"""

from configs.errors import ConfigError
from configs.manifest import load_dataset
from configs.schema import RunConfig
from configs.sections.training import PolyakConfig
from trainer.data.catalog import Items
from trainer.data.chain.layers import ChainLock
from trainer.evaluation.trained import Trained
from trainer.runtime import start_tensorflow


def open_start(config: RunConfig) -> Trained:
    """The weights of init.from, on the config's dataset; tables are in memory.

    Raises:
      ConfigError: the config has no section `init`, or the other run does not fit.
      DataError: a dataset is missing or was prepared with another config.
      CheckpointError: the other run has no checkpoint that verifies.
    """
    if config.init is None:
        raise ConfigError("--start evaluates the weights of init.from; set init.from, or remove --start")
    # Nothing is trained: neither averages beside the weights nor slots are read.
    init = config.init.model_copy(update={"slots": "reset"})
    config = config.model_copy(update={"init": init, "polyak": PolyakConfig(kind="none")})
    start_tensorflow(config.device)
    from trainer.data.chain.item_counts import item_counts
    from trainer.data.checks import check_dataset
    from trainer.data.train_rows import TrainRows
    from trainer.models.recommender import Recommender
    from trainer.warm_start.start import WarmStart

    reading = ChainLock(config.dataset.path)
    dataset = load_dataset(config.dataset.path)
    check_dataset(config, dataset)
    warm = WarmStart(config, dataset, unknown_as_served=True)
    warm.match()
    items = Items.load(dataset)
    counts = item_counts(TrainRows.of(config, dataset), items, exact=False)
    recommender = Recommender(config, dataset, counts, num_steps=1)
    warm.load(recommender, recommender.dense_state)
    return Trained(config, dataset, items, recommender, 0, reading, chosen="before training")
