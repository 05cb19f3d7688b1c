"""A DoFn that processes several elements at once.

The local runner passes elements to a stage one by one in one thread, but nearly all time is spent in NumPy,
Arrow and zlib, which release the interpreter lock. Threads share the memory of one process; a second worker
process would double it.
"""

import collections
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from pipelines.job import Job


class ThreadedDoFn(beam.DoFn):
    """Sub-classes implement `work(element, *side_inputs)`, which yields outputs and keeps no state."""

    def __init__(self, job: Job):
        self._job = job

    def setup(self) -> None:
        threads = self._job.layout.threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def start_bundle(self) -> None:
        self._running: collections.deque[Future[list[Any]]] = collections.deque()

    def work(self, element: Any, *side_inputs: Any) -> Iterator[Any]:
        raise NotImplementedError

    def process(self, element: Any, *side_inputs: Any) -> Iterator[Any]:
        if self._pool is None:
            yield from self.work(element, *side_inputs)
            return
        self._running.append(self._pool.submit(lambda: list(self.work(element, *side_inputs))))
        while len(self._running) > self._job.layout.threads:  # one more than threads, so that none is idle
            yield from self._running.popleft().result()

    def finish_bundle(self) -> Iterator[Any]:
        while self._running:
            for output in self._running.popleft().result():
                yield _in_global_window(output)
        pa.default_memory_pool().release_unused()

    def teardown(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def _in_global_window(output: Any) -> Any:
    """An output in the form that finish_bundle must yield."""
    window = GlobalWindow()
    if isinstance(output, beam.pvalue.TaggedOutput):
        value = WindowedValue(output.value, window.max_timestamp(), (window,))
        return beam.pvalue.TaggedOutput(output.tag, value)
    return WindowedValue(output, window.max_timestamp(), (window,))
