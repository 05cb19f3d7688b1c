"""Checks of what goes on from day to day: bases, windows, warm starts."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_day(config: "RunConfig") -> None:
    """Raises ValueError, naming the key, if what a run continues does not fit the rest of it."""
    _check_init(config)


def _check_init(config: "RunConfig") -> None:
    if config.init is not None and config.init.from_.rstrip("/") == config.output.path.rstrip("/"):
        raise ValueError(
            f"init.from: {config.init.from_} is the run's own output.path; name the run to start from, or "
            "use another output.path"
        )
