"""The environment variable TF_CONFIG: the hosts of a cluster and which of them this one is. Standard
library and pydantic only.

    {"cluster": {"worker": ["10.0.0.1:7777", "10.0.0.2:7777"]}, "task": {"type": "worker", "index": 1}}
"""

import json
import os
import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator

from configs.errors import ConfigError

VARIABLE = "TF_CONFIG"
_EXAMPLE = (
    '{"cluster": {"worker": ["10.0.0.1:7777", "10.0.0.2:7777"]}, "task": {"type": "worker", "index": 0}}'
)
_ADDRESS = re.compile(r"([^\s,:/\[\]@]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})")


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of host:port, IPv6 addresses without their brackets.

    Raises:
      ValueError: it is not host:port.
    """
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 1 << 16:
        raise ValueError(f"{address!r} is not an address; write host:port, such as 10.0.0.1:7777")
    return found[1].strip("[]"), int(found[2])


def _checked(address: str) -> str:
    host_and_port(address)
    return address


HostAddress = Annotated[str, AfterValidator(_checked)]


@dataclass(frozen=True)
class ClusterTask:
    """One host's place in a cluster."""

    addresses: tuple[str, ...]
    """Of all hosts, host 0 first."""
    index: int
    """Of this host."""


def task_of_environment() -> ClusterTask:
    """What TF_CONFIG says. Raises ConfigError: it is missing, or not as in the example above."""
    text = os.environ.get(VARIABLE)
    if not text:
        raise ConfigError(f"{VARIABLE}: is not set in this environment; set it to {_EXAMPLE}")
    try:
        return _parsed(text)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{VARIABLE}: {error}; write it as {_EXAMPLE}") from None


def _parsed(text: str) -> ClusterTask:
    document = json.loads(text)
    cluster, task = (document.get(key) if isinstance(document, dict) else None for key in ("cluster", "task"))
    if not isinstance(cluster, dict) or not isinstance(task, dict):
        raise ValueError("cluster or task is missing")
    if odd := sorted(set(cluster) - {"worker"}):
        raise ValueError(f"cluster.{odd[0]}: all hosts are of type worker, the driver is worker 0")
    addresses = cluster.get("worker")
    if not isinstance(addresses, list) or len(addresses) < 2:
        raise ValueError("cluster.worker: must list the addresses of at least 2 hosts")
    for address in addresses:
        host_and_port(str(address))
    if len(set(addresses)) < len(addresses):
        raise ValueError("cluster.worker: an address is there twice")
    if task.get("type") != "worker":
        raise ValueError(f"task.type: {task.get('type')!r} is not worker")
    index = task.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(addresses):
        raise ValueError(f"task.index: {index!r} is not in 0..{len(addresses) - 1}")
    return ClusterTask(tuple(map(str, addresses)), index)
