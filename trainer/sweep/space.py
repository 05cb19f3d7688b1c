"""The values of a sweep's keys, and the config of each trial. Without Optuna."""

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from configs.errors import ConfigError
from configs.load import overridden, parse_config
from configs.schema import RunConfig
from configs.sections.search.sweep import RangeConfig, SweepConfig
from configs.system import storage

_MOST_COMBINATIONS = 256  # of values that are checked; more take seconds
_ALL_TABLES = "tables.*."


class Space:
    """The keys that are varied.

    Args:
      document: of the base config, not validated, so that defaults still follow from a trial's values.
      origin: its file, for messages.
      sweep: the document of the sweep.

    Raises:
      ConfigError: the base config is not valid.
    """

    def __init__(self, document: dict[str, Any], origin: str, sweep: SweepConfig):
        self._document, self._sweep = document, sweep
        self.base = parse_config(document, origin)
        named = document.get("tables") or {}
        others = set(self.base.table_of_input.values()) - set(named)
        self._tables = [*(name for name in named if name != "*"), *(["*"] if others else [])]

    def check(self, origin: str) -> None:
        """Checks values of all keys, alone and together, against the schema.

        Args:
          origin: file of the sweep, for messages.

        Raises:
          ConfigError: a value is refused, or changes the dataset; names the key.
        """
        ends = {key: ends_of(space) for key, space in self._sweep.space.items()}
        first = {key: values[0] for key, values in ends.items()}
        for key, values in ends.items():
            for value in values:
                self._check(f"{origin}: space.{key}: {_text(value)}", first | {key: value})
        if math.prod(map(len, ends.values())) > _MOST_COMBINATIONS:
            return
        for together in itertools.product(*ends.values()):
            found = dict(zip(ends, together, strict=True))
            self._check(f"{origin}: space: {values_text(found)}", found)

    def _check(self, what: str, values: Mapping[str, Any]) -> None:
        config = self.trial_config(0, values, what)
        for section in ("source", "dataset", "evaluate"):
            own, base = (getattr(c, section).model_dump(mode="json") for c in (config, self.base))
            if own != base:
                key = next(key for key in own if own[key] != base.get(key))
                raise ConfigError(
                    f"{what}: changes {section}.{key}, which all trials share; set that key in the config"
                )

    def trial_config(self, number: int, values: Mapping[str, Any], what: str = "") -> RunConfig:
        """The config of a trial: an ordinary run, in a directory of its own.

        Args:
          number: of the trial.
          values: by key of the space.
          what: to name in errors.

        Raises:
          ConfigError: the schema refuses the values.
        """
        path = storage.join(self._sweep.output, "trials", str(number))
        document = overridden(self._document, self._overrides(values))
        document |= {"name": f"{self.base.name}-{number}", "output": {"path": path}}
        try:
            return parse_config(document, what or f"trial {number}, {values_text(values)}")
        except ConfigError as error:  # a key of all tables is wrong in each of them
            raise ConfigError(str(error).splitlines()[0]) from None

    def _overrides(self, values: Mapping[str, Any]) -> Iterator[str]:
        """As --set takes them; what names one table comes after what is of all tables."""
        for key in sorted(values, key=lambda key: not key.startswith(_ALL_TABLES)):
            value = json.dumps(values[key], ensure_ascii=False)
            if not key.startswith(_ALL_TABLES):
                yield f"{key}={value}"
                continue
            for table in self._tables:
                yield f"tables.{table}.{key.removeprefix(_ALL_TABLES)}={value}"


def ends_of(space: list[Any] | RangeConfig) -> list[Any]:
    """The values of a list; the lowest and the highest one of a range."""
    if not isinstance(space, RangeConfig):
        return space
    if space.step is None:
        return [space.low, space.high]
    return [space.low, space.low + space.step * (space.number - 1)]


def grid_of(space: list[Any] | RangeConfig) -> list[Any]:
    """All values of a key, which has a limited number of them."""
    if not isinstance(space, RangeConfig):
        return [stored(value) for value in space]
    step = space.step or 1
    return [space.low + step * place for place in range(int(space.number))]


def stored(value: Any) -> Any:
    """A value of a list as Optuna's storages take it: sections and lists as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def chosen_values(sweep: SweepConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values that Optuna's parameters stand for, by key, in the order of the space."""
    found = {}
    for key, space in sweep.space.items():
        chosen = params[key]
        if not isinstance(space, RangeConfig):
            chosen = next(value for value in space if stored(value) == chosen)
        found[key] = chosen
    return found


def values_text(values: Mapping[str, Any]) -> str:
    """Keys and their values for people."""
    return ", ".join(f"{key}={_text(value)}" for key, value in values.items())


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(stored(value))
