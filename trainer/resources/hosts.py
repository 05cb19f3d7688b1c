"""What each host of a cluster needs and sends, computed before a run starts."""

import math
from dataclasses import dataclass
from typing import Any

from configs.schema import RunConfig
from configs.sections.models import SoftmaxLossConfig, TwoTowerConfig
from configs.text import size_text
from trainer.resources.dense import dense_weights
from trainer.resources.forecast import BASE_BYTES, MARGIN, TableForecast

# Measured with small batches on two cores: see docs/cluster.md.
FIXED_SECONDS = {2: 1.8e-3, 4: 4.4e-3}
PIECE_BYTES = 200 << 20  # of checkpoints, that a host has in memory at a time


@dataclass(frozen=True)
class HostForecast:
    """One host of a cluster; host 0 also reads the batch and has the dense weights."""

    hosts: int
    table_bytes: int
    """Of the rows of one host."""
    peak_bytes: int
    sent_bytes: int
    """By host 0 in a step, to all others together."""
    received_bytes: int
    """By host 0 in a step, from all others together."""
    fixed_seconds: float
    """Of a step, whatever its batch."""


def forecast_host(config: RunConfig, tables: list[TableForecast], hosts: int) -> HostForecast:
    """The host with the most to do of a cluster of so many hosts.

    Args:
      config: the run.
      tables: from forecast_tables; those whose rows are not known count nothing.
      hosts: their number.
    """
    known = sum(table.total or 0 for table in tables)
    own = -(-known // hosts)
    peak = int(own * MARGIN) + BASE_BYTES + min(2 * PIECE_BYTES, known)
    sent, received = _traffic(config, hosts)
    return HostForecast(hosts, own, peak, sent, received, _fixed_seconds(hosts))


def _fixed_seconds(hosts: int) -> float:
    """On a line through the two measured numbers of hosts."""
    (few, low), (many, high) = sorted(FIXED_SECONDS.items())
    return low + (hosts - few) * (high - low) / (many - few)


def _traffic(config: RunConfig, hosts: int) -> tuple[int, int]:
    """(bytes that host 0 sends, receives) in a step, if rows are spread evenly and none is asked for
    twice."""
    others = hosts - 1
    ids = rows = 0  # of the whole batch
    for name, inputs in config.ids_of_batch.items():
        number = sum(map(math.prod, inputs.values()))
        dim = config.table(name).dim
        assert dim is not None, "configs.defaults fills it in"
        ids, rows = ids + number, rows + number * dim
    # A host needs a part of the ids and owns a part of the rows; what it needs of its own rows stays.
    part = others / hosts**2
    exchanged = int(part * (8 * ids + 2 * 4 * rows)) + _gathered(config, hosts)
    dense = 4 * dense_weights(config)
    batch = int(others / hosts * 8 * ids) + others * _columns(config)
    return exchanged + batch + others * dense, exchanged + others * dense


def _gathered(config: RunConfig, hosts: int) -> int:
    """Bytes of the candidates' vectors that a host sends to all others, and of their gradients."""
    model = config.model
    if not isinstance(model, TwoTowerConfig):
        return 0
    tower = model.item_tower
    widths = [config.input_width(name) for name in tower.inputs]
    inner = widths[0] if tower.combine == "sum" else sum(widths)
    width = tower.layers[-1] if tower.layers else inner
    if not isinstance(model.loss, SoftmaxLossConfig):
        return 0
    candidates = config.examples_per_step + model.loss.extra_negatives
    group = model.loss.group or config.train.batch_size
    if group <= config.train.batch_size // hosts:  # whose items are on one host
        candidates = model.loss.extra_negatives
    return 2 * 4 * width * candidates * (hosts - 1) // hosts


def _columns(config: RunConfig) -> int:
    """Bytes of the columns that every host gets whole: ids and log q of candidates, and weights."""
    return 16 * config.examples_per_step


def host_facts(forecast: HostForecast) -> dict[str, Any]:
    """A forecast as `plan` prints it in JSON."""
    return dict(vars(forecast))


def host_text(facts: dict[str, Any]) -> str:
    """One line about the hosts of a cluster, from host_facts."""
    memory = (
        f"{size_text(facts['peak_bytes'])} at the peak of each ({size_text(facts['table_bytes'])} of tables)"
    )
    sent, received = size_text(facts["sent_bytes"]), size_text(facts["received_bytes"])
    fixed = f"{1000 * facts['fixed_seconds']:.1f} ms"
    traffic = f"host 0 sends {sent} a step and receives {received}"
    return f"{facts['hosts']}: {memory}; {traffic}; {fixed} a step fixed"
