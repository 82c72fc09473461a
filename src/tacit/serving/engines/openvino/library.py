"""The library itself: imported without what nobody asked for, one Core, and its words of errors."""

import re
import sys
import threading
from functools import cache
from typing import Any

_SOURCE_PLACE = re.compile(r"\S+\.(?:cpp|hpp|cc|c|h):\d+:?\s*")  # in the engine's own source
_MAX_REASON = 300  # characters of the engine's own words in an error


def import_library() -> Any:
    """OpenVINO without its conversion tools, which bring a telemetry client that nobody asked for (and 60 ms)."""
    kept_out = "openvino.tools"
    modules: dict[str, Any] = sys.modules
    if "openvino" in modules or kept_out in modules:
        import openvino

        return openvino
    modules[kept_out] = None
    try:
        import openvino
    finally:
        del modules[kept_out]
    return openvino


_GATE = threading.Lock()


def open_core() -> Any:
    """The one Core of this process, which stays until the process ends.

    With the last Core goes the CPU plugin, and with that the stack for signals that it gave to the thread which loaded
    it. Where another thread drops it, the first is left with a stack that is gone: its next signal kills the process.
    """
    with _GATE:
        return _make_core()


@cache
def _make_core() -> Any:
    return import_library().Core()


def reason_of(exc: Exception) -> str:
    """The engine's own words without its source lines, on one line."""
    lines = [line.strip() for line in str(exc).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    text = " ".join(said or [line for line in lines if line])
    text = _SOURCE_PLACE.sub("", text).strip() or "no reason given"
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON] + "..."
