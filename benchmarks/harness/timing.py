"""Interleaved timing: every round runs every program, so that a ratio within a round has seen the same machine."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

MICROSECONDS = 1e6


FEWEST_ROUNDS = 3
WARM_SECONDS = 0.2


PATIENCE_SECONDS = 0.05


def _time(run: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - start) / repeats


class Neighbours:
    """Whether other virtual machines use the processors that this process has.

    A processor of a virtual machine is often half a core, and whoever has the other half takes issue slots away, from vector code more
    than from code that waits for memory: ratios move. A loop of the interpreter that touches no memory feels it as well, and takes some
    60 us.
    """

    LOOP = range(4000)
    QUIET = 1.1  #: of the fastest loop so far

    def __init__(self) -> None:
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._processors = sorted(affinity) if len(affinity) > 1 else []
        self._fastest = min(self._slowest_loop() for _ in range(100))

    def disturbance(self) -> float:
        """Of the most disturbed processor; up to QUIET is none."""
        slowest = self._slowest_loop()
        self._fastest = min(self._fastest, slowest)
        return slowest / self._fastest

    def _slowest_loop(self) -> float:
        if not self._processors:
            return _time(self._loop, 1)
        times = []
        for processor in self._processors:
            os.sched_setaffinity(0, {processor})  # of this thread
            times.append(_time(self._loop, 1))
        os.sched_setaffinity(0, self._processors)
        return max(times)

    def _loop(self) -> None:
        sum(self.LOOP)


def _time_undisturbed(run: Callable[[], None], repeats: int, neighbours: Neighbours, patience_seconds: float) -> float:
    """Again, for so long, while there is disturbance just before or after; the least disturbed run counts."""
    end = time.perf_counter() + patience_seconds
    least, best = float("inf"), 0.0
    before = neighbours.disturbance()
    while True:
        measured = _time(run, repeats)
        after = neighbours.disturbance()
        if max(before, after) < least:
            least, best = max(before, after), measured
        if least <= neighbours.QUIET or time.perf_counter() > end:
            return best
        before = after


def interleaved(
    programs: Mapping[str, Callable[[], None]],
    rounds: int,
    seconds: float,
    slice_seconds: float = 0.001,
    settle_seconds: float = 0.0,
    patience_seconds: float = PATIENCE_SECONDS,
) -> dict[str, list[float]]:
    """Microseconds of a run of each program, round by round.

    Args:
        rounds: every program once per round, in an order of its own each time.
        seconds: no new round after that, once there are FEWEST_ROUNDS.
        slice_seconds: programs that are shorter run several times per round, about this long together; their mean counts. They run
            once before, since the programs before them have used the caches.
        settle_seconds: pause before each program: some engines' threads spin for a while after a run, and would take a processor from
            whoever comes next. A processor that has been idle is slower for a tenth of a second, so the program then runs for
            WARM_SECONDS that do not count.
        patience_seconds: a run that the machine's neighbours disturbed is made again for so long.
    """
    neighbours = Neighbours()
    for run in programs.values():
        run()
    single = {name: max(_time(run, 1), 1e-7) for name, run in programs.items()}
    times: dict[str, list[float]] = {name: [] for name in programs}
    order = list(programs)
    shuffle = random.Random(0)
    start = time.perf_counter()
    for done in range(rounds):
        if done >= FEWEST_ROUNDS and time.perf_counter() - start > seconds:
            break
        shuffle.shuffle(order)
        for name in order:
            if settle_seconds > 0:
                time.sleep(settle_seconds)
                _time(programs[name], max(1, round(WARM_SECONDS / single[name])))
            elif single[name] < 10 * slice_seconds:
                programs[name]()
            repeats = max(1, round(slice_seconds / single[name]))
            times[name].append(_time_undisturbed(programs[name], repeats, neighbours, patience_seconds) * MICROSECONDS)
    return times


def median_with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """The median, and the order statistics that enclose the true one with 95 % or more."""
    values = np.sort(np.asarray(values))
    n = len(values)
    reach = int(np.ceil(0.98 * np.sqrt(n)))  # 1.96 standard deviations of a binomial count, sqrt(n) / 2 each
    low, high = max(0, n // 2 - reach), min(n - 1, (n - 1) // 2 + reach)
    return float(np.median(values)), float(values[low]), float(values[high])


def speed(ours: Sequence[float] | np.ndarray, theirs: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """How many times as fast we are: the median of the ratios of each round, and its interval."""
    return median_with_interval(np.asarray(theirs) / np.asarray(ours))
