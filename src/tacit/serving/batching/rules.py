"""What a batch may be: TensorFlow Serving's parameters, and one of ours.

Source: tensorflow_serving/servables/tensorflow/session_bundle_config.proto, tensorflow_serving/batching/README.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tacit.errors import UsageError

MAX_BATCH = 1000  # TensorFlow Serving's own default
MAX_ENQUEUED = 10
_PLACE = "; see --batching_parameters_file"


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How requests are joined.

    `max_batch` and `max_execution` are rows; `timeout` is seconds from the first request of a batch to its run, and 0
    waits for nobody: what came while the model was busy is the batch. `allowed` are the sizes that are run, the last of
    them the largest; a batch between two is filled up. `split` cuts a request with more rows than a batch may have,
    which is refused otherwise. `mix_clients` joins requests of different clients.
    """

    max_batch: int = MAX_BATCH
    timeout: float = 0.0
    max_enqueued: int = MAX_ENQUEUED
    allowed: Sequence[int] = ()
    pad: bool = False
    split: bool = True
    max_execution: int = 0
    mix_clients: bool = True

    def __post_init__(self) -> None:
        """Refuse what contradicts itself. Raises: UsageError."""
        for name, value in (("max_batch_size", self.max_batch), ("max_enqueued_batches", self.max_enqueued)):
            if value < 1:
                raise UsageError(f"{name} is {value}, and must be 1 or more{_PLACE}")
        if self.timeout < 0:
            raise UsageError(f"batch_timeout_micros is negative; 0 waits for nobody{_PLACE}")
        if self.max_execution > self.max_batch or self.max_execution < 0:
            raise UsageError(
                f"max_execution_batch_size is {self.max_execution}, and must be at most max_batch_size "
                f"({self.max_batch}){_PLACE}"
            )
        if self.allowed and (min(self.allowed) < 1 or list(self.allowed) != sorted(set(self.allowed))):
            raise UsageError(f"allowed_batch_sizes are {list(self.allowed)}, and must increase{_PLACE}")
        if self.allowed and self.allowed[-1] != self.largest:
            name = "max_execution_batch_size" if self.max_execution else "max_batch_size"
            raise UsageError(
                f"the last of allowed_batch_sizes is {self.allowed[-1]}, not {name} ({self.largest}){_PLACE}"
            )

    @property
    def largest(self) -> int:
        """Rows of the largest run."""
        return self.max_execution or self.max_batch

    def size_for(self, rows: int) -> int:
        """Rows that a run of so many is filled up to."""
        return next((size for size in self.allowed if size >= rows), rows)
