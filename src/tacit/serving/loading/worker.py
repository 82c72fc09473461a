"""What runs in a worker: one model, for the process that started it.

(1) The first message brings the model; it is loaded, and the signatures go back, or what went wrong.
(2) Each further message is a request; its tensors lie in shared memory, and so do those of the answer.
(3) When the other side has gone, whatever runs, the process ends: nobody waits for it any more.
"""

import os
import select
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from tacit.errors import RequestError, TacitError
from tacit.serving.batching.loaded import fit
from tacit.serving.bundle import Bundle, FolderBundle, MemoryBundle
from tacit.serving.engines.interface import Engine, EngineLoader, EngineOptions, Samples
from tacit.serving.loading import messages
from tacit.serving.loading.line import Line
from tacit.serving.loading.memory import SharedMemory
from tacit.serving.loading.warmup import zeros_for

_MEMORIES = 3  # that come with the model: for what is asked, for what is answered, and the model's files


def work(line: Line, load: EngineLoader, samples: Samples | None = None) -> None:
    """Load what comes first, then answer until the other side has gone; `samples` is for int8."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # told to all processes at once, it would take the model from a drain
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    with suppress(ConnectionError):
        _Worker(line, load, samples).run()


def _end_with(line: Line) -> None:
    """End this process at once when the other side has gone."""
    gone = select.poll()
    gone.register(line, select.POLLRDHUP)
    gone.poll()
    os._exit(0)


class _Worker:
    def __init__(self, line: Line, load: EngineLoader, samples: Samples | None) -> None:
        self._line, self._load, self._samples = line, load, samples

    def run(self) -> None:
        raw, descriptors = self._line.receive_with(_MEMORIES)
        if raw is None:
            return
        self._asked, self._answered, contents = (SharedMemory(descriptor) for descriptor in descriptors)
        request = messages.parse_request(raw)
        if not isinstance(request, messages.Load):
            return
        try:
            engine = self._open(request, contents)
        except Exception as exc:
            self._send(_refused(exc))
            return
        contents.close()
        self._send(messages.Loaded(engine.platform, messages.describe(engine.signatures)))
        while (raw_request := self._line.receive()) is not None:
            asked = messages.parse_request(raw_request)
            if isinstance(asked, messages.Ask):
                self._send(self._answer(engine, asked))

    def _open(self, request: messages.Load, contents: SharedMemory) -> Engine:
        options = EngineOptions(
            request.precision, request.threads, request.engine, Path(request.staging), self._samples, request.device
        )
        bundle: Bundle
        if request.place is not None:
            bundle = FolderBundle(Path(request.place), tuple(request.names))
        else:
            memory = contents.view(request.size)
            bundle = MemoryBundle({one.name: memory[one.offset : one.offset + one.size] for one in request.files})
        engine = self._load(bundle, options)
        if not request.fit:
            return engine
        single = partial(self._load, bundle, replace(options, threads=1))
        return fit(engine, zeros_for, alone=single if options.has_choice_of_threads else None)[0]

    def _answer(self, engine: Engine, asked: messages.Ask) -> messages.Answer | messages.Refused:
        try:
            inputs = messages.take_tensors(self._asked.view(asked.size), asked.tensors, copy=False)
            found = engine.infer(asked.signature, inputs, asked.outputs)
            places, contents, size = messages.place_tensors(found)
            messages.put_tensors(self._answered.room(size), places, contents)
        except Exception as exc:
            return _refused(exc)
        return messages.Answer(places, size)

    def _send(self, reply: messages.Loaded | messages.Answer | messages.Refused) -> None:
        self._line.send(messages.encode(reply))


def _refused(exc: Exception) -> messages.Refused:
    if isinstance(exc, RequestError):
        return messages.Refused(exc.reason, str(exc), exc.status)
    if isinstance(exc, TacitError):
        return messages.Refused(exc.reason, str(exc))
    return messages.Refused(type(exc).__name__, "")
