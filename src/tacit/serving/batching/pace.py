"""How quick is a model? A few runs on its smallest input, for choosing who runs it and with how many threads."""

import time
from collections.abc import Mapping, Sequence

from tacit.serving.batching.queue import Runner
from tacit.wire.tensor import Tensor

QUICK_NS = 200_000  # below it a thread that has to be woken, or a second one that helps, costs more than it brings
_RUNS = 30  # of a quick model; the quickest counts, so that another process's turn on the processor does not
_SLOW_NS = 100_000_000  # a first run that takes this long says enough
_ENOUGH_NS = 20_000_000  # so do further runs that take this long together


def measure_pace(runner: Runner, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> int:
    """Nanoseconds of the quickest of a few runs. The first, for which engines plan, counts only if it is the only one.

    Raises:
        RequestError: the model does not take these inputs.
    """

    def run() -> int:
        begin = time.perf_counter_ns()
        runner.infer(signature, inputs, outputs)
        return time.perf_counter_ns() - begin

    best = run()
    if best > _SLOW_NS:
        return best
    spent = 0
    best = run()
    for _ in range(_RUNS):
        took = run()
        best, spent = min(best, took), spent + took
        if spent > _ENOUGH_NS:
            break
    return best
