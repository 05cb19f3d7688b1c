"""Makes requests to the bucket wait, so that a test can act while they are on their way."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from urllib.parse import unquote


def mentions(request, text: str) -> bool:
    """Whether a request is about an object whose name holds `text`."""
    places = [unquote(request.path), *request.query.values(), unquote(request.body[:1000].decode("latin-1"))]
    return any(text in place for place in places)


class Gate:
    """Requests that are due wait until it is opened.

    Args:
      due: of a tests.support.gcs_server.Request, asked before the request acts, one request at a time.
      lost: they do not act even then, since who sent them is dead; the answer is 503.

    Attributes:
      reached: set once a request waits.
    """

    def __init__(self, due: Callable[[object], bool], lost: bool):
        self._due, self._opened = due, threading.Event()
        self.lost, self.reached = lost, threading.Event()

    def is_due(self, request) -> bool:
        """Whether the request must wait; to be asked under the store's lock."""
        return not self._opened.is_set() and self._due(request)

    def wait(self) -> None:
        """Until it is opened."""
        self.reached.set()
        self._opened.wait()

    def open(self) -> None:
        """Lets all requests pass."""
        self._opened.set()


@contextlib.contextmanager
def gate(store, due: Callable[[object], bool], lost: bool = True) -> Iterator[Gate]:
    """A gate before a tests.support.gcs_server.Store; at the end of the block it is opened."""
    store.gate = Gate(due, lost)
    try:
        yield store.gate
    finally:
        store.gate.open()
