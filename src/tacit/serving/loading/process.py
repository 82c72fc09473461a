"""A process that runs one model, as seen from here: it is started, given a model, asked, and ended.

It gets the model's files, and neither a key nor the storage: a folder that lies open is read in place, anything else is
decrypted here, into memory that both see. Its environment is what the program says, so no secret of this one is in it.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tacit.errors import EngineCrashedError, ModelFormatError, PlaintextError, RequestError, Status, WorkerError
from tacit.graph.signature import Signature
from tacit.serving.bundle import Bundle
from tacit.serving.engines.interface import EngineOptions
from tacit.serving.engines.staging import WORKERS, sweep
from tacit.serving.loading import messages
from tacit.serving.loading.line import Line
from tacit.serving.loading.memory import SharedMemory
from tacit.serving.loading.starting import Started
from tacit.wire.tensor import Tensor

_LOADING = 900.0  # seconds that a worker may take to load a model; others wait for that
_PATIENCE = 5.0  # seconds for a worker that said nothing more to have ended
_ENDED = "the process that runs the model was ended, because the model is unloaded"
_FILES_ALIGNED = 4096  # bytes; a page


class Worker:
    """One such process. `infer` is never called by two threads at once; `close` and `wait` may be at any time."""

    def __init__(self, started: Started) -> None:
        """Raises: OSError, and then `started` is still the caller's."""
        self._process = started.process
        self._line = Line(started.end)
        self._asked = SharedMemory.create()
        try:
            self._answered = SharedMemory.create()
        except OSError:
            self._asked.close()
            raise
        self._staging: Path | None = None
        self._gate = threading.Lock()  # held by who uses the memory
        self._ended = self._closed = False
        self.platform = ""
        self.signatures: Mapping[str, Signature] = {}

    @property
    def number(self) -> int:
        """The process's number."""
        return self._process.pid

    def load(
        self, bundle: Bundle, options: EngineOptions, *, fit: bool, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        """Give it the model, do something `meanwhile`, and wait until it is loaded.

        Raises:
            EngineCrashedError: it died of it.
            ModelFormatError: no engine reads it.
            PlaintextError: the model needs a path and `options.staging` is not memory.
            WorkerError, RequestError, MemoryError: what else its engine said, or a foreign error by its name.
        """
        contents = SharedMemory.create()
        try:
            places, size = ([], 0) if bundle.place else _fill(contents, bundle)
            request = messages.Load(
                list(bundle.names),
                str(bundle.place) if bundle.place else None,
                places,
                size,
                options.precision,
                options.threads,
                options.engine,
                str(options.staging if bundle.place else self._own_staging(options.staging)),
                fit,
                options.device,
            )
            self._line.limit(_LOADING)
            reply = self._exchange(request, [self._asked, self._answered, contents], meanwhile)
            self._line.limit(None)
        finally:
            contents.close()
            self._end_staging()
        if not isinstance(reply, messages.Loaded):
            self._kill()
            raise _error_of(reply)
        self.platform, self.signatures = reply.platform, messages.signatures_of(reply.signatures)

    def infer(self, signature: str, inputs: Mapping[str, Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
        """The outputs asked for. Raises: EngineCrashedError, WorkerError, RequestError."""
        places, contents, size = messages.place_tensors(inputs)
        with self._gate:
            if self._closed:
                raise EngineCrashedError(self._death())
            messages.put_tensors(self._asked.room(size), places, contents)
            reply = self._exchange(messages.Ask(signature, list(outputs), places, size))
            try:
                if not isinstance(reply, messages.Answer):
                    raise _error_of(reply)
                messages.check_answer(reply, outputs)
                found = messages.take_tensors(self._answered.view(reply.size), reply.tensors, copy=True)
            finally:
                self._asked.trim()
                self._answered.trim()
        return found

    def wait(self) -> str:
        """Wait until it has ended; what it died of."""
        return _ending(self._process.wait())

    def close(self) -> None:
        """End it at once, whatever it does: it keeps nothing that is wanted. Gives its memory back."""
        # One that has died by itself is not ended, and what it died of is still to be told.
        self._ended = self._ended or self._process.poll() is None
        self._line.close()
        self._kill()
        with self._gate:
            self._closed = True
            self._asked.close()
            self._answered.close()
        self._end_staging()

    # ---- the conversation

    def _exchange(
        self,
        request: messages.Load | messages.Ask,
        shared: Sequence[SharedMemory] = (),
        meanwhile: Callable[[], None] = lambda: None,
    ) -> object:
        try:
            self._line.send(messages.encode(request), [memory.descriptor for memory in shared])
            meanwhile()
            reply = self._line.receive()
            if reply is not None:
                return messages.parse_reply(reply)
        except OSError as exc:
            raise EngineCrashedError(self._death()) from exc
        except BaseException:  # what is left in the socket would be taken for the next answer
            self._kill()
            raise
        raise EngineCrashedError(self._death())

    def _death(self) -> str:
        """What the process died of, which it has or is about to."""
        if self._ended:
            return _ENDED
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill()
            return "the process that runs the model left without a word"
        return f"the process that runs the model {_ending(code)}"

    def _kill(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    # ---- a folder for formats that are read from a path

    def _own_staging(self, staging: Path) -> Path:
        """A folder of this worker's below `staging`: one that dies leaves what it wrote there, and we remove it."""
        try:
            sweep(staging)
            self._staging = Path(tempfile.mkdtemp(prefix=f"{WORKERS}{os.getpid()}-", dir=staging))
        except OSError:
            return staging  # the engine says what is wrong with it, if it needs one
        return self._staging

    def _end_staging(self) -> None:
        if self._staging is not None:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._staging = None


def _fill(contents: SharedMemory, bundle: Bundle) -> tuple[list[messages.Place], int]:
    """Put all files into the shared memory, one after the other, decrypted and verified as they are read."""
    places, end = [], 0
    for name in bundle.names:
        size = bundle.size(name)
        places.append(messages.Place(name, end, size))
        end += -(-size // _FILES_ALIGNED) * _FILES_ALIGNED
    with contents.room(end) as memory:
        for place in places:
            with memory[place.offset : place.offset + place.size] as target:
                bundle.read_into(place.name, target)
    return places, end


def _error_of(reply: object) -> Exception:
    """What the other side raised. Only what a model's engine may raise comes over as what it was."""
    if not isinstance(reply, messages.Refused):
        return WorkerError(f"a worker answered with {type(reply).__name__}, which nobody asked for")
    if reply.reason == RequestError.reason and reply.status in tuple(Status) and reply.status:
        return RequestError(Status(reply.status), reply.message)
    for kind in (ModelFormatError, PlaintextError):
        if reply.reason == kind.reason:
            return kind(reply.message)
    if reply.reason == MemoryError.__name__:
        return MemoryError()
    return WorkerError(f"the engine failed in a way that nobody foresaw ({reply.reason})")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"died of {name}" + (", as it does where memory runs out" if -code == signal.SIGKILL else "")
