"""What runs next, and together with what?

In: requests for one model, from any number of callers. Out: their futures. `queue` has the one thread per model, `rules`
what a batch may be, `rows` joins tensors and takes them apart again, `waiting` is one request, `turn` says when
those of one turn of the event loop run together, `statistics` counts.
"""

from tacit.serving.batching.queue import ENGINE_THREAD, MAX_WAITING, ModelQueue, QueueClosedError
from tacit.serving.batching.rules import BatchRules
from tacit.serving.batching.statistics import Duration, Statistics

__all__ = [
    "ENGINE_THREAD",
    "MAX_WAITING",
    "BatchRules",
    "Duration",
    "ModelQueue",
    "QueueClosedError",
    "Statistics",
]
