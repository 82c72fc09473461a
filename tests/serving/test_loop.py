"""The program's event loop."""

import asyncio
import sys
from types import ModuleType

import pytest

from tacit.programs.model_server.server import fast_loop, run_in_loop


def test_uvloop_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fast(asyncio.SelectorEventLoop):
        pass

    stands_for = ModuleType("uvloop")
    stands_for.new_event_loop = Fast  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "uvloop", stands_for)
    found = []

    async def main() -> None:
        found.append(type(asyncio.get_running_loop()))

    run_in_loop(main())
    assert found == [Fast]
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert fast_loop() is None
    run_in_loop(main())
    assert found[1] is not Fast
