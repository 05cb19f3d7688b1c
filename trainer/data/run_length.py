"""The number of steps of a run."""

from configs.errors import ConfigError
from configs.schema import RunConfig
from configs.sections.training import MAX_STEPS


def run_steps(config: RunConfig, steps_per_epoch: int) -> int:
    """Steps of the run, from num_steps or num_epochs. Raises ConfigError if they are too many."""
    if config.train.num_steps is not None:
        return config.train.num_steps
    assert config.train.num_epochs is not None, "one of both is set"
    steps = config.train.num_epochs * steps_per_epoch
    if steps > MAX_STEPS:
        raise ConfigError(
            f"train.num_epochs: makes {steps:,.0f} steps, more than the {MAX_STEPS:,} possible; lower it"
        )
    return max(round(steps), 1)
