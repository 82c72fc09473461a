"""An event loop in a thread of its own, and its end."""

import asyncio
import threading


def end_loop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Let what was on its way at the end (a connection, say) come and be closed; then stop and close the loop."""

    async def settle() -> None:
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=2)
        # A client that left in the middle of its handshake is given a second to hear of it; a test does not wait.
        for transport in list(loop._transports.values()):  # type: ignore[attr-defined]
            transport.abort()
        await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(settle(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
