"""What a model has done since it was loaded. Written by whoever runs it, read by whoever asks: whole numbers only."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often, and how long together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        """`count` more, which took `ns` nanoseconds together."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class Statistics:
    """Requests by their end, their parts, and the runs of the engine by their rows.

    `inferences` are rows, `executions` runs; `last` is milliseconds since 1970. `joined` is the time for making one
    input of many, `parted` that for making many answers of one.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    joined: Duration = field(default_factory=Duration)
    infer: Duration = field(default_factory=Duration)
    parted: Duration = field(default_factory=Duration)
    runs: dict[int, Duration] = field(default_factory=dict)
    inferences: int = 0
    executions: int = 0
    last: int = 0

    def ran(self, rows: int, ns: int) -> None:
        """The engine ran once."""
        self.executions += 1
        self.inferences += rows
        self.infer.add(ns)
        found = self.runs.get(rows)
        if found is None:
            if len(self.runs) >= _MAX_SIZES:
                return
            found = self.runs[rows] = Duration()
        found.add(ns)


_MAX_SIZES = 128  # numbers of rows that are told apart; a client can think of more
