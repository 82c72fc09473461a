"""A process that runs one model for `tacit-serve`, which started it and is its only other end.

    python -m tacit.programs.model_server.worker DESCRIPTOR

It has no key, no identity and no port: the model's files come by its one socket, or lie open in a folder.
"""

import contextlib
import socket
import sys

from tacit.errors import TacitError
from tacit.programs.memory import give_back_memory, keep_buffers, keep_memory_private
from tacit.programs.model_server.samples import recorded_samples
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.select import load_model, prepare
from tacit.serving.loading.line import Line
from tacit.serving.loading.worker import work


def main() -> None:
    """Run until `tacit-serve` needs it no longer."""
    keep_memory_private()
    keep_buffers()
    line = Line(socket.socket(fileno=int(sys.argv[1])))
    prepare()
    with contextlib.suppress(TacitError):  # what the other side says makes no sense; it learns that nobody is here
        work(line, _load, recorded_samples)


def _load(bundle: Bundle, options: EngineOptions) -> Engine:
    engine = load_model(bundle, options)
    give_back_memory()
    return engine


if __name__ == "__main__":
    main()
