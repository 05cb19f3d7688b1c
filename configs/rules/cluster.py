"""What a run over several hosts cannot do: refused when a config is read, never ignored."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from configs.rules.towers import split_group
from configs.sections.devices import ClusterDeviceConfig
from configs.sections.tables import TableConfig

if TYPE_CHECKING:
    from configs.schema import RunConfig


def check_cluster(config: "RunConfig") -> None:
    """Raises ValueError, naming keys, if a cluster does not support a run's settings."""
    if not isinstance(config.device, ClusterDeviceConfig):
        return
    problems = [*_lacks(config)]
    if config.device.known_count is not None:
        problems += _uneven(config, config.device.known_count)
    if problems:
        raise ValueError(f"device cluster: {'; '.join(problems)}")


def _uneven(config: "RunConfig", hosts: int) -> list[str]:
    if odd := config.uneven(hosts):
        return [f"{odd} is not divisible by its {hosts} hosts; use a multiple of them"]
    wrong = split_group(config, hosts)
    return [wrong] if wrong else []


def _lacks(config: "RunConfig") -> Iterator[str]:
    for name in sorted(set(config.table_of_input.values())):
        table = config.table(name)
        if not isinstance(table, TableConfig):
            yield f"tables.{name}: kind {table.kind} keeps its array on one machine; use kind: table"
        elif table.engine == "tfa":
            yield f"tables.{name}.engine: tfa runs on one machine only; use auto"
        elif lacks := table.optimizer.cluster_lacks:
            yield f"tables.{name}: optimizer {table.optimizer.kind}: {lacks}"
