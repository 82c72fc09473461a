"""Callers who ask a server all the time, and a record of every request: when, how long, and what came of it."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np

from tacit.wire.pb.serving_pb2 import PredictRequest, PredictResponse

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_PATIENCE = 60.0  # seconds that a request may wait for a connection; the machine may be busy
_SILENCE = 20.0  # seconds without an answer after which a caller hangs up


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `error` is empty where it was answered."""

    caller: int
    began: float
    ended: float
    error: str


@dataclass
class Record:
    """All requests of all callers, and what else happened, by name and time (monotonic seconds)."""

    asked: list[Asked] = field(default_factory=list)
    happened: list[tuple[str, float]] = field(default_factory=list)

    def note(self, what: str) -> float:
        """Something happens now."""
        now = time.monotonic()
        self.happened.append((what, now))
        return now

    @property
    def lost(self) -> list[Asked]:
        """What was not answered."""
        return [one for one in self.asked if one.error]

    def longest_gap(self) -> float:
        """The longest time between two answers, to whomever, in seconds."""
        ends = sorted(one.ended for one in self.asked if not one.error)
        return max((after - before for before, after in itertools.pairwise(ends)), default=0.0)


def _request() -> bytes:
    request = PredictRequest()
    request.model_spec.name = "resnet50"
    request.inputs["input"].dtype = 1
    for size in (1, 224, 224, 3):
        request.inputs["input"].tensor_shape.dim.add().size = size
    request.inputs["input"].tensor_content = np.full((1, 224, 224, 3), 127, np.float32).tobytes()
    return request.SerializeToString()


@contextlib.asynccontextmanager
async def load(address: str, *, roots: bytes, name: str, callers: int, record: Record) -> AsyncIterator[None]:
    """Callers ask for the length of the block; half of them connect anew for each request, as short-lived ones do."""
    ending = asyncio.Event()
    tasks = [
        asyncio.create_task(_ask(number, address, roots, name, number % 2 == 1, record, ending))
        for number in range(callers)
    ]
    try:
        yield
    finally:
        ending.set()
        await asyncio.gather(*tasks)


async def _ask(
    caller: int, address: str, roots: bytes, name: str, anew: bool, record: Record, ending: asyncio.Event
) -> None:
    request = _request()
    channel = _open(address, roots, name)
    while not ending.is_set():
        began = time.monotonic()
        error = ""
        try:
            answer = await _one(channel, request)
            if answer.outputs["predict"].tensor_shape.dim[1].size != 1000:
                error = "a wrong answer"
        except (grpc.aio.AioRpcError, TimeoutError) as exc:
            error = f"{exc.code().name}: {exc.details()}" if isinstance(exc, grpc.aio.AioRpcError) else "no answer"
        record.asked.append(Asked(caller, began, time.monotonic(), error))
        if error or anew:
            await channel.close()
            channel = _open(address, roots, name)
        await asyncio.sleep(0.02)
    await channel.close()


async def _one(channel: grpc.aio.Channel, request: bytes) -> PredictResponse:
    """Wait for a connection with patience, and for the answer with little."""
    await asyncio.wait_for(channel.channel_ready(), _PATIENCE)
    call = channel.unary_unary(PREDICT, request_serializer=None, response_deserializer=PredictResponse.FromString)
    return await call(request, timeout=_SILENCE)


def _open(address: str, roots: bytes, name: str) -> grpc.aio.Channel:
    options = [
        ("grpc.ssl_target_name_override", name),
        ("grpc.use_local_subchannel_pool", 1),
        # A connection to a machine that is gone is given up soon, and tried again.
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options)


def render_report(record: Record, *, title: str) -> str:
    """The requests over time as an SVG: one row a caller, answered, and lost in red; lines for what happened."""
    from xml.sax.saxutils import escape

    begin = min(one.began for one in record.asked)
    end = max(one.ended for one in record.asked)
    callers = sorted({one.caller for one in record.asked})
    left, width, row = 90, 900, 22
    height = 60 + row * len(callers) + 20 * len(record.happened) + 30

    def x(moment: float) -> float:
        return left + (moment - begin) / max(end - begin, 1e-9) * width

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 30}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="10" y="20" font-size="14">{escape(title)}: {len(record.asked)} requests, {len(record.lost)} lost, '
        f"longest time without an answer {record.longest_gap():.1f} s</text>",
    ]
    for place, caller in enumerate(callers):
        y = 40 + place * row
        parts.append(f'<text x="10" y="{y + 13}">caller {caller}</text>')
        for one in record.asked:
            if one.caller == caller:
                colour = "#c62828" if one.error else "#2e7d32"
                wide = max(x(one.ended) - x(one.began), 1)
                parts.append(
                    f'<rect x="{x(one.began):.1f}" y="{y}" width="{wide:.1f}" height="16" fill="{colour}" opacity="0.6"/>'
                )
    bottom = 40 + row * len(callers)
    for place, (what, moment) in enumerate(record.happened):
        y = bottom + 18 + 20 * place
        side = "end" if x(moment) > left + width / 2 else "start"
        parts.append(f'<line x1="{x(moment):.1f}" y1="34" x2="{x(moment):.1f}" y2="{y}" stroke="#1565c0"/>')
        parts.append(
            f'<text x="{x(moment) + (-4 if side == "end" else 4):.1f}" y="{y}" text-anchor="{side}">'
            f"{moment - begin:.1f} s: {escape(what)}</text>"
        )
    return "\n".join([*parts, "</svg>"])
