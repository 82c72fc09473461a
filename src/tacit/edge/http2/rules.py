"""What one connection may cost: every limit in one value, each with its unit and its reason."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Limits of one HTTP/2 connection. The first five are told to the client in SETTINGS."""

    max_streams: int = 128  # requests at once; a client waits, it is not refused
    window: int = 1 << 20  # bytes that a client may send on a stream before it is told to go on; an image fits
    connection_window: int = 64 << 20  # bytes on all streams together; given back as they arrive
    max_frame: int = 1 << 20  # bytes of a DATA frame, which is passed on as it comes
    max_headers: int = 64 << 10  # bytes of a header list, and of the block that it is compressed into
    max_continuations: int = 16  # frames of one header block: more is a flood (CVE-2024-27316)
    # What a client may do that costs us something and leads to nothing, before its connection ends. Each answer that is
    # sent takes back one, and each look of the clock all of them.
    # Requests that it takes back (CVE-2023-44487), or that we have to refuse: then no further one is taken, and at twice as
    # many the connection ends.
    max_resets: int = 200
    max_idle_frames: int = 1000  # PING, SETTINGS, PRIORITY, empty DATA and the like (CVE-2019-9512, -9515, -9518)
