"""The program `tacit-serve`: serves models to TensorFlow Serving's clients, in the clear or attested.

    tacit-serve --model_name=NAME --model_base_path=PATH [--rest_api_port=PORT] ...        (--help lists the flags)

Started by tacit-premain it is attested: its certificate came from the coordinator, it loads only what the manifest's
`Models` names, and it never serves plaintext. The environment is read here and nowhere else:

- TACIT_TEE: the kind of TEE that this process was attested in; set by premain.
- TACIT_MODELS: the manifest's rules for models, as JSON. TACIT_KEY_DIR: a folder in memory with one key per model.
- TACIT_CLIENTS: the manifest's clients, as JSON: who may call which model, and who may manage.
- MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN, MARBLE_PREDEFINED_PRIVATE_KEY: the identity, unless a file gives one.
"""

import os
import sys
import threading
from collections.abc import Mapping, Sequence

from tacit.errors import TacitError, UsageError
from tacit.programs.memory import keep_buffers, keep_memory_private
from tacit.programs.model_server.isolation import start_ahead
from tacit.serving.tfs.flags import Flags, parse_flags, usage


def main() -> None:
    """Run the program and end the process with its exit code."""
    code = run(sys.argv[1:], os.environ)
    if threading.active_count() > 1 and _is_at_work():
        # A model is still being loaded, or hangs. The engine's own threads would meet its destructors, which abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until told to end: 0 after SIGTERM or SIGINT, 1 where it cannot start, 2 for a wrong command line."""
    keep_memory_private()
    keep_buffers()
    try:
        flags = parse_flags(arguments)
        if flags.switch("help") or flags.switch("version"):
            print(usage() if flags.switch("help") else _version())  # noqa: T201 (asked for)
            return 0
        _serve(flags, environ)
    except UsageError as exc:
        print(f"Failed to start server. Error: {exc}", file=sys.stderr)  # noqa: T201 (the last word of this program)
        return 2
    except TacitError as exc:
        print(f"Failed to start server. Error: {exc}", file=sys.stderr)  # noqa: T201
        return 1
    finally:
        from tacit.programs.model_server.private import remove_private_folder

        remove_private_folder(environ)
    return 0


def _serve(flags: Flags, environ: Mapping[str, str]) -> None:
    """Run the server; while all of it is imported, the process for the first model gets ready. Raises: TacitError."""
    ahead = start_ahead(flags, environ)
    try:
        from tacit.programs.model_server.loop import run_in_loop
        from tacit.programs.model_server.server import serve

        run_in_loop(serve(flags, environ, ahead))
    finally:
        if ahead is not None:
            ahead.close()


def _is_at_work() -> bool:
    """Whether a thread still loads or runs a model."""
    from tacit.serving.batching import ENGINE_THREAD
    from tacit.serving.plane import STORAGE_THREAD

    return any(thread.name.startswith((STORAGE_THREAD, ENGINE_THREAD)) for thread in threading.enumerate())


def _version() -> str:
    from importlib.metadata import version

    return f"tacit-serve {version('tacit')}"
