"""Network namespaces of this machine as hosts of a network that tests can cut; needs the rights of root."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

_MARK = "ltn"
"""Begins the names of what is made here; the number of the process that made it follows."""
_PORT = 7777


class Network:
    """Hosts on one bridge, whose processes see nothing but the others.

    Attributes:
      addresses: of the hosts, with a port.
    """

    def __init__(self, number: int):
        self._name = f"{_MARK}{os.getpid()}"
        self.addresses = [f"10.77.0.{i + 1}:{_PORT}" for i in range(number)]

    def within(self, index: int) -> list[str]:
        """What runs the command after it on a host; the process keeps its number."""
        return ["ip", "netns", "exec", f"{self._name}-{index}"]

    def up(self) -> None:
        """Makes everything."""
        bridge = f"{self._name}b"
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        for i, address in enumerate(self.addresses):
            host, cable = f"{self._name}-{i}", self._cable(i)
            _ip("netns", "add", host)
            _ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("link", "set", cable, "master", bridge)
            _ip("-n", host, "addr", "add", f"{address.split(':')[0]}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
            _ip("-n", host, "link", "set", "lo", "up")
            self.plug_in(i)

    def cut(self, index: int) -> None:
        """Unplugs a host's cable, which no program notices."""
        _ip("link", "set", self._cable(index), "down")

    def plug_in(self, index: int) -> None:
        """Plugs it in."""
        _ip("link", "set", self._cable(index), "up")

    def _cable(self, index: int) -> str:
        return f"{self._name}v{index}"


@contextlib.contextmanager
def network(number: int) -> Iterator[Network]:
    """A network of `number` hosts, and none at the end, whatever happens; one at a time in a process.

    Raises:
      OSError, subprocess.CalledProcessError: namespaces are not permitted here.
    """
    _remove_left()
    made = Network(number)
    try:
        made.up()
        yield made
    finally:
        _remove_left(os.getpid())


def _remove_left(also: int | None = None) -> None:
    """Removes what processes that have ended, or process `also`, have left."""
    for name in _made("netns", "list"):
        if _is_left(name, also):
            # The cable goes at once, with both ends; that of a deleted namespace goes some time later.
            subprocess.run(["ip", "-n", name, "link", "del", "eth0"], capture_output=True, check=False)
            _ip("netns", "del", name)
    for name in _made("-o", "link", "show", "type", "bridge"):
        if _is_left(name, also):
            _ip("link", "del", name)


def _is_left(name: str, also: int | None) -> bool:
    owner = int("".join(filter(str.isdigit, name.removeprefix(_MARK).split("-")[0])))
    return owner == also or not os.path.exists(f"/proc/{owner}")


def _made(*command: str) -> list[str]:
    """The names in a listing that begin with the mark."""
    words = _ip(*command).replace(":", " ").split()
    return [word for word in words if word.startswith(_MARK)]


def _ip(*command: str) -> str:
    return subprocess.run(["ip", *command], capture_output=True, text=True, check=True).stdout
