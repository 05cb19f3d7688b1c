"""Work on the items of a stream in threads, with the results in the stream's order."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], most: int) -> Iterator[_Result]:
    """function(item) of each item, in order, computed by threads; at most `most` items at a time.

    `items` is consumed in the caller's thread. An item's exception is raised at its turn; later items that
    have not been started are dropped then.
    """
    waiting: collections.deque[concurrent.futures.Future[_Result]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                del item  # otherwise one more item would stay in memory
                if len(waiting) == most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
