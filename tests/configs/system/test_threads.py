"""Work in threads, with results in the order of the items."""

import threading
import time

import pytest

from configs.system.threads import in_order


def test_results_come_in_order_and_few_items_are_taken_ahead():
    taken, lock, running, most = [], threading.Lock(), 0, 0

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    def slow(i: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (i % 3))
        with lock:
            running -= 1
        return i * i

    found = []
    for square in in_order(slow, items(), 3):
        found.append(square)
        assert len(taken) <= len(found) + 3
    assert found == [i * i for i in range(20)] and most <= 3


def test_an_items_exception_is_raised_at_its_turn():
    def check(i: int) -> int:
        if i == 2:
            raise ValueError("two")
        return i

    results = in_order(check, range(5), 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(results)
