"""What hosts say of themselves when a driver connects: versions, kernels, whom they reach, and the shared
directory."""

import os
import secrets
import socket
from collections.abc import Callable

import tensorflow as tf
from absl import logging

from configs.system import storage
from trainer.cluster.services import Service
from trainer.cluster.sockets import refusals
from trainer.kernels.build import kernels
from trainer.version import VERSION

_DRIVER = secrets.token_hex(8)
"""Of this process, if it is a driver: it may greet more than once."""


class Greeting:
    """The service of a host that answers a driver's greeting.

    Args:
      index: of this host in the cluster that it was started for.
      noticed: called with the request of a driver; None on the driver itself.
    """

    def __init__(self, index: int, noticed: Callable[[dict], None] | None = None):
        self._index, self._noticed = index, noticed
        self.service = Service("greet", self._answer)

    def _answer(self, request: dict) -> tuple[dict]:
        if self._noticed is not None:
            self._noticed(request)
        others = [address for i, address in enumerate(request["addresses"]) if i != self._index]
        return (
            {
                "index": self._index,
                "lazytower": VERSION,
                "TensorFlow": tf.__version__,
                "kernels": kernels() is not None,
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "cannot_reach": refusals(others),
                "shared": _meets(request["meeting"], request["secret"], self._index),
            },
        )


def greeting_request(addresses: list[str], run: str) -> dict:
    """What a driver asks all hosts; creates the file that they must find in the run's directory."""
    meeting, secret = storage.join(run, f".hosts-{secrets.token_hex(4)}"), secrets.token_hex(16)
    storage.make_directory(meeting)
    storage.write_bytes(storage.join(meeting, "driver"), secret.encode())
    return {
        **{"addresses": addresses, "run": run, "meeting": meeting, "secret": secret},
        **{"version": VERSION, "host": socket.gethostname(), "pid": os.getpid(), "driver": _DRIVER},
    }


def _meets(meeting: str, secret: str, index: int) -> str:
    """Why this host does not share the run's directory with the driver; empty: it does, and may write
    there."""
    try:
        if storage.read_bytes(storage.join(meeting, "driver")) != secret.encode():
            return "holds another file"
        storage.write_bytes(storage.join(meeting, f"host-{index}"), secret.encode())
        return ""
    except FileNotFoundError:
        return "is not there"
    except Exception as error:  # object stores have errors of their own
        return f"{type(error).__name__}: {error}"


def shared_problem(request: dict, index: int, answer: dict) -> str | None:
    """Why a host does not share the run's directory; None: it does. The driver reads what the host wrote."""
    if answer["shared"]:
        return answer["shared"]
    try:
        written = storage.read_bytes(storage.join(request["meeting"], f"host-{index}"))
    except FileNotFoundError:
        written = b""
    return None if written == request["secret"].encode() else "is another directory there"


def end_meeting(request: dict) -> None:
    """Removes the files of the greeting."""
    try:
        storage.remove(request["meeting"])
    except Exception as error:  # object stores have errors of their own; the files are tiny
        logging.warning("%s: cannot be removed (%s)", request["meeting"], error)
