"""How quick is a model? A few runs on its smallest input, for choosing who runs it and with how many threads."""

import time
from collections.abc import Mapping, Sequence

from tacit.serving.batching.queue import Runner
from tacit.wire.tensor import Tensor

QUICK_NS = 200_000  # below it a thread that has to be woken, or a second one that helps, costs more than it brings
_RUNS = 30  # of a quick model; the quickest counts, so that another process's turn on the processor does not
_ENOUGH_NS = 20_000_000  # runs that take this long together say enough


def measure_pace(runner: Runner, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> int:
    """Nanoseconds of the quickest of a few runs; a slow model is run once.

    Raises:
        RequestError: the model does not take these inputs.
    """
    best = spent = 0
    for _ in range(_RUNS):
        begin = time.perf_counter_ns()
        runner.infer(signature, inputs, outputs)
        took = time.perf_counter_ns() - begin
        best = min(best or took, took)
        spent += took
        if spent > _ENOUGH_NS:
            break
    return best
