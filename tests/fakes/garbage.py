"""Whether views of memory end in cycles of garbage: up to Python 3.11.7, its collector crashes on them (fixed in 3.11.8)."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def _is_live(view: memoryview) -> bool:
    try:
        return view.nbytes >= 0
    except ValueError:  # released, which the collector survives
        return False


@contextmanager
def no_views_in_cycles() -> Iterator[None]:
    """Fails where what runs inside leaves a cycle behind that an unreleased view is part of."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)  # what would be collected is kept, and can be looked at
    try:
        yield
        gc.collect()
        views = [found for found in gc.garbage if isinstance(found, memoryview) and _is_live(found)]
        sizes = [view.nbytes for view in views]
        for view in views:
            with suppress(BufferError):  # another one looks through it
                view.release()
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not sizes, f"views of {sizes} bytes are in cycles of garbage"
