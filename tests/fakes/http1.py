"""What a server says over HTTP/1.1 to bytes that no client would send: read answer by answer, however long each takes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

PATIENCE = 60  # seconds that a busy machine may take; no test waits for them


async def answers_to(port: int, *pieces: bytes, answers: int = 1) -> bytes:
    """What comes back for bytes in pieces: so many answers and what follows them at once, or all until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02 if len(pieces) > 1 else 0)
        async with asyncio.timeout(PATIENCE):
            while len(whole_answers(received)) < answers and (some := await reader.read(65536)):
                received += some
        with suppress(TimeoutError):  # one answer too many would come together with the others
            async with asyncio.timeout(0.05):
                while some := await reader.read(65536):
                    received += some
    writer.transport.abort()
    await asyncio.sleep(0)
    return received


def whole_answers(received: bytes) -> Sequence[bytes]:
    """The answers that have come to their end, one by one; what only asks to go on is none."""
    found = []
    while True:
        head, ended, rest = received.partition(b"\r\n\r\n")
        if not ended:
            return found
        lines = head.lower().split(b"\r\n")
        size = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(rest) < size:
            return found
        if not lines[0].startswith(b"http/1.1 1"):
            found.append(head + ended + rest[:size])
        received = rest[size:]
