"""A worker whose engine dies as a native one does: of a file called `dies.txt` when it loads, of a 13 when it runs. Of a
17 it never answers, and with `hangs.txt` of anything.

`python -m fakes.dying_worker DESCRIPTOR`, in the place of `tacit.programs.model_server.worker`.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import Engine, EngineOptions
from tacit.serving.engines.openvino import load_openvino
from tacit.serving.loading.line import Line
from tacit.serving.loading.worker import work
from tacit.wire.tensor import Tensor

FATAL, ENDLESS = 13.0, 17.0


class Dying:
    """An engine that a number kills, and another keeps."""

    def __init__(self, engine: Engine, *, of_zero: bool, hangs: bool) -> None:
        self._hangs = hangs
        self._engine, self._fatal = engine, 0.0 if of_zero else FATAL
        self.platform = engine.platform

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._engine.signatures

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        if self._hangs or any((tensor.array == ENDLESS).any() for tensor in inputs.values()):
            time.sleep(3600)
        if any((tensor.array == self._fatal).any() for tensor in inputs.values()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return self._engine.infer(signature, inputs, outputs)

    def close(self) -> None:
        self._engine.close()


def load(bundle: Bundle, options: EngineOptions) -> Engine:
    if "dies.txt" in bundle.names:
        os.kill(os.getpid(), signal.SIGABRT)
    return Dying(
        load_openvino(bundle, options), of_zero="dies-of-zero.txt" in bundle.names, hangs="hangs.txt" in bundle.names
    )


if __name__ == "__main__":
    work(Line(socket.socket(fileno=int(sys.argv[1]))), load)
