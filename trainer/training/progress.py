"""Shows the progress of a run: one line that is redrawn in a terminal, plain log lines elsewhere."""

import collections
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from absl import logging

from configs.system.terminal import unescaped

WINDOW_SECONDS = 60.0  # long enough to average over checkpoints, short enough to show a slow-down
REDRAW_SECONDS = 0.2


class Progress:
    """Step, speed and time left of a run.

    The speed is that of the last minute of training; time inside `paused()` does not count.
    """

    def __init__(
        self,
        total_steps: int,
        start_step: int = 0,
        unit: str = "step",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        every_seconds: float = 10.0,
        examples_per_step: int = 0,
    ):
        """Starts the clock.

        Args:
          total_steps: the step at which the run ends.
          start_step: the step it starts or resumes from.
          unit: what a step is called.
          stream: a bar is drawn on it if it is a terminal; None: stderr.
          clock: monotonic seconds.
          every_seconds: least time between two log lines, if the stream is not a terminal.
          examples_per_step: the batch size; 0: show the speed in units per second.
        """
        stream = unescaped(sys.stderr if stream is None else stream)
        self.step = start_step
        self._total = total_steps
        self._unit = unit
        self._clock = clock
        self._examples_per_step = examples_per_step
        self._paused_seconds = 0.0
        self._pauses = 0
        self._points = collections.deque([(clock(), start_step)])
        self._has_start = True  # whether the window still reaches back to the very start
        self._values: dict[str, float] = {}
        self._bar = _bar(total_steps, start_step, unit, stream) if stream.isatty() else None
        self._every = every_seconds if self._bar is None else REDRAW_SECONDS
        self._shown_at = -float("inf")
        self._shown_step: int | None = None
        self._closed = False

    @property
    def steps_per_second(self) -> float | None:
        """Speed over the window; None while it holds fewer than two points."""
        (first, first_step), (last, last_step) = self._points[0], self._points[-1]
        return (last_step - first_step) / (last - first) if last > first else None

    @property
    def examples_per_second(self) -> float | None:
        """steps_per_second times examples_per_step; None if either is unknown."""
        speed = self.steps_per_second
        return speed * self._examples_per_step if speed is not None and self._examples_per_step else None

    @property
    def seconds_left(self) -> float | None:
        """Training time left at the current speed; None if the speed is unknown or 0."""
        speed = self.steps_per_second
        return (self._total - self.step) / speed if speed else None

    def update(self, step: int, **values: float) -> None:
        """Records that `step` steps are done; `values`, such as loss=0.31, are shown beside them."""
        now = self._clock() - self._paused_seconds
        self.step = step
        self._values = values
        self._points.append((now, step))
        if self._has_start and len(self._points) > 2:
            # The first loop includes tracing and compilation, so drop it as soon as there is another.
            self._points.popleft()
            self._has_start = False
        while len(self._points) > 2 and self._points[1][0] <= now - WINDOW_SECONDS:
            self._points.popleft()
        if now - self._shown_at >= self._every:
            self._show(now)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Wraps evaluations and checkpoints, whose time does not count. May be nested."""
        start = self._clock()
        self._pauses += 1
        if self._bar is not None:
            self._bar.clear()  # log lines start on an empty line
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._paused_seconds += self._clock() - start
                if self._bar is not None:
                    self._bar.refresh()

    def close(self) -> None:
        """Shows the last state once and moves the terminal to a new line."""
        if self._closed:
            return
        self._closed = True
        if self._shown_step != self.step or self._bar is not None:
            self._show(self._clock() - self._paused_seconds)
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused) -> None:
        self.close()

    def _show(self, now: float) -> None:
        self._shown_at = now
        self._shown_step = self.step
        if self._bar is None:
            logging.info("%s", self._line())
            return
        self._bar.n = self.step
        self._bar.set_description_str(self._line(), refresh=False)
        self._bar.refresh()

    def _line(self) -> str:
        parts = [f"{self._unit} {self.step:,}/{self._total:,}"]
        if self._bar is None and self._total:  # the bar shows its own percentage
            parts[0] += f" ({self.step / self._total:.0%})"
        parts += [f"{name} {value:.4g}" for name, value in self._values.items()]
        if self.examples_per_second is not None:
            parts.append(f"{self.examples_per_second:,.0f} examples/s")
        elif self.steps_per_second is not None:
            parts.append(f"{self.steps_per_second:,.3g} {self._unit}s/s")
        if self.seconds_left is not None and self.step < self._total:
            parts.append(f"{_duration(self.seconds_left)} left")
        return "  ".join(parts)


def _bar(total: int, start: int, unit: str, stream: TextIO):
    from tqdm import tqdm  # needed in terminals only

    # tqdm only draws: its own rate includes evaluations and compilation; {desc} holds ours.
    return tqdm(
        total=total,
        initial=start,
        unit=unit,
        file=stream,
        dynamic_ncols=True,
        bar_format="{percentage:3.0f}%|{bar}| {desc}",
    )


def _duration(seconds: float) -> str:
    """0:42, 12:03 or 3:07:00."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
