"""`tacit bench`: one request over and over, on several channels side by side, and how long the answers took.

Options, lines and summary are those of the demo's own client, so that numbers and scripts carry over. Each channel has
its own connection and its own request, encoded once before the clock starts; a call is timed from send to answer.
"""

import asyncio
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tacit.errors import (
    FileInputError,
    ModelNotAllowedError,
    PeerError,
    TlsError,
    UnreachableError,
    UsageError,
)

if TYPE_CHECKING:
    import grpc
    import numpy as np
    from numpy.typing import NDArray

PREDICT = "/tensorflow.serving.PredictionService/Predict"
WARM_UP_LOOPS = 5
PICTURE = "224,224,3"
MAX_MESSAGE = 2**31 - 1  # bytes; gRPC's own default of 4 MiB would refuse large answers
MAX_REQUESTS = 8 << 30  # bytes of all channels' requests together, which are held in memory
MAX_CERTIFICATES = 1 << 20  # bytes
MAX_PICTURE = 64 << 20  # bytes of an image file
PERCENTILES = (50, 90, 99)


@dataclass(slots=True)
class Run:
    """What one run measured: latencies in seconds in order of arrival, and the first answer."""

    latencies: list[float] = field(default_factory=list)
    first: bytes | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Bench:
    """One server, the requests that go to it (one for each channel, encoded), and the rows in each."""

    url: str
    roots: bytes | None
    requests: Sequence[bytes]
    batch: int
    timeout: float

    @property
    def channel_kind(self) -> str:
        """The word in the lines: `secure` or `insecure`."""
        return "insecure" if self.roots is None else "secure"


def bench(
    *,
    url: Annotated[str, typer.Option("--url", help="HOST:PORT of the server's gRPC.")] = "localhost:8500",
    crt: Annotated[
        Path | None, typer.Option("--crt", help="Certificate (PEM) to trust; without it the channel is not secure.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Rows in a request.")] = 1,
    cnum: Annotated[int, typer.Option("--cnum", min=1, max=4096, help="Channels side by side.")] = 16,
    loop: Annotated[int, typer.Option("--loop", min=0, help="Requests on each channel; 0 goes on until Ctrl-C.")] = 200,
    img: Annotated[
        Path | None, typer.Option("--img", help="Picture to send instead of random pixels; batch 1 only.")
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Name of the model.")] = "resnet50",
    input_name: Annotated[str, typer.Option("--input", help="Name of its input.")] = "input",
    shape: Annotated[str, typer.Option("--shape", help="Sizes of one row, float32.")] = PICTURE,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that an answer may take.")] = 600.0,
) -> None:
    """Measure a server: latency and throughput of one request, again and again.

    Example: tacit bench --url grpc.tf-serving.service.com:8500 --crt tensorflow.crt --batch 1 --cnum 1 --loop 10
    """
    row = _parse_shape(shape)
    if img is not None and batch != 1:
        raise UsageError("a picture is one row: --img goes with --batch 1")
    if img is not None and (len(row) != 3 or row[2] not in (1, 3)):
        raise UsageError(f"--img needs a --shape of height, width and 3 (or 1) channels, not {shape}")
    if cnum * batch * prod(row) * 4 > MAX_REQUESTS:
        raise UsageError(
            f"the requests would take more than {MAX_REQUESTS >> 30} GiB; lower --batch, --cnum or --shape"
        )
    roots = None if crt is None else _load_certificates(crt)
    picture = None if img is None else _load_picture(img, row)
    requests = [_encode(model, input_name, (batch, *row), picture) for _ in range(cnum)]
    plan = Bench(_check_url(url), roots, requests, batch, timeout)
    asyncio.run(_measure(plan, loop))


async def _measure(plan: Bench, loops: int) -> None:
    # The first calls pay for connections and for the model's first run; they are not shown.
    await _run(plan, WARM_UP_LOOPS if loops else 1, Run(), say=lambda line: None)
    run = Run()
    running = asyncio.ensure_future(_run(plan, loops, run, say=typer.echo))
    events = asyncio.get_running_loop()
    # Ctrl-C ends the calls, and the summary of what was measured until then is still printed.
    events.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        await asyncio.wait([running])
    finally:
        events.remove_signal_handler(signal.SIGINT)
    if not running.cancelled():
        running.result()
    if run.first is None:
        raise PeerError("interrupted before the first answer; nothing was measured")
    typer.echo(str(_answer_as_dict(run.first)))
    for line in summarize(run, channels=len(plan.requests), batch=plan.batch):
        typer.echo(line)
    if loops and running.cancelled():
        raise KeyboardInterrupt


async def _run(plan: Bench, loops: int, run: Run, *, say: Callable[[str], None]) -> None:
    """All channels' calls, measured into `run`, which holds what there is also when this is cancelled."""
    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for task in range(len(plan.requests)):
                group.create_task(_call_over_and_over(plan, task, loops, run, say))
    except BaseExceptionGroup as several:
        # Channels that fail together fail for one reason.
        raise several.exceptions[0] from None
    finally:
        run.seconds = time.perf_counter() - started


async def _call_over_and_over(plan: Bench, task: int, loops: int, run: Run, say: Callable[[str], None]) -> None:
    from grpc import aio

    async with _open_channel(plan) as channel:
        predict = channel.unary_unary(PREDICT)
        done = 0
        while loops == 0 or done < loops:
            started = time.perf_counter()
            try:
                answer = await predict(plan.requests[task], timeout=plan.timeout)
            except aio.AioRpcError as exc:
                raise _explain(exc, plan) from exc
            latency = time.perf_counter() - started
            run.latencies.append(latency)
            if run.first is None:
                run.first = answer
            index = f" loop_idx {done}," if loops else ""
            say(
                f"query: {plan.channel_kind} channel, task {task}, batch {plan.batch},{index} "
                f"latency(ms) {1000 * latency:.1f}, tps: {plan.batch / latency:.1f}"
            )
            done += 1


def _open_channel(plan: Bench) -> "grpc.aio.Channel":
    import grpc

    options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE),
        ("grpc.max_send_message_length", MAX_MESSAGE),
        # Channels of one process share a connection by default; these are to be clients of their own.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if plan.roots is None:
        return grpc.aio.insecure_channel(plan.url, options=options)
    return grpc.aio.secure_channel(plan.url, grpc.ssl_channel_credentials(plan.roots), options=options)


def summarize(run: Run, *, channels: int, batch: int) -> list[str]:
    """The summary in the original's form, and a line of percentiles (milliseconds)."""
    ordered = sorted(run.latencies)
    average = 1000 * sum(ordered) / len(ordered)
    rate = len(ordered) * batch / run.seconds
    # The nearest-rank percentile: a latency that was really seen.
    ranks = [-(-len(ordered) * percent // 100) - 1 for percent in PERCENTILES]
    points = ", ".join(
        f"p{percent} {1000 * ordered[rank]:.1f}" for percent, rank in zip(PERCENTILES, ranks, strict=True)
    )
    return [
        f"summary: cnum {channels}, batch {batch}, e2e time(s) {run.seconds}, "
        f"average latency(ms) {average}, tps: {rate}",
        f"percentiles: latency(ms) min {1000 * ordered[0]:.1f}, {points}, max {1000 * ordered[-1]:.1f}",
    ]


def _explain(exc: "grpc.aio.AioRpcError", plan: Bench) -> Exception:
    """A failed call as one line that says what to do."""
    import grpc

    details = " ".join((exc.details() or "").split())[:400]
    code = exc.code()
    if code == grpc.StatusCode.UNAVAILABLE:
        return _explain_unavailable(details, plan)
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return UnreachableError(
            f"{plan.url} gave no answer within {plan.timeout:g} s; raise --timeout or lower --batch and --cnum"
        )
    if code == grpc.StatusCode.NOT_FOUND:
        return ModelNotAllowedError(f"{plan.url}: {details}; name a model that it serves with --model")
    return PeerError(f"{plan.url} refused the request: {code.name}: {details}")


def _explain_unavailable(details: str, plan: Bench) -> Exception:
    low = details.lower()
    if "certificate_verify_failed" in low or "certificate verify failed" in low:
        return TlsError(
            f"the certificate of {plan.url} does not lead to the one given with --crt; "
            "get the coordinator's with: tacit certificate intermediate HOST:4433 -o tensorflow.crt"
        )
    if "hostname verification" in low or "is not in peer certificate" in low:
        return TlsError(
            f"the certificate of {plan.url} has another name; use the name that is in it "
            "(EDG_MARBLE_DNS_NAMES of the server) in --url, and map it to the server's address"
        )
    if "wrong_version_number" in low or "wrong version number" in low:
        return TlsError(
            f"{plan.url} does not speak TLS: nothing protects what is sent there, and nobody was attested. "
            "Start the server by tacit-premain or with --ssl_config_file; only to measure it in the clear leave --crt out"
        )
    if plan.roots is None and any(
        sign in low for sign in ("socket closed", "reset by peer", "settings frame", "broken pipe")
    ):
        return TlsError(
            f"{plan.url} ended the plaintext connection; does it speak TLS? Then give its certificate with --crt"
        )
    return UnreachableError(
        f"{plan.url} cannot be reached ({details}); check the address, and that the server is running"
    )


def _encode(model: str, input_name: str, shape: tuple[int, ...], picture: "NDArray[np.float32] | None") -> bytes:
    import numpy as np

    from tacit.wire.pb import serving_pb2, tensorflow_pb2

    if picture is None:
        picture = np.random.default_rng().integers(0, 255, shape, dtype=np.uint8).astype(np.float32)
    request = serving_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = "serving_default"
    tensor = request.inputs[input_name]
    tensor.dtype = tensorflow_pb2.DT_FLOAT
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = picture.astype("<f4", copy=False).tobytes()
    return request.SerializeToString()


def _answer_as_dict(answer: bytes) -> dict[str, object]:
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError

    from tacit.wire.pb import serving_pb2

    try:
        return MessageToDict(serving_pb2.PredictResponse.FromString(answer))
    except DecodeError as exc:
        raise PeerError("the server's answer is no PredictResponse; is it TensorFlow Serving's protocol?") from exc


def _check_url(url: str) -> str:
    host, colon, port = url.rpartition(":")
    if "://" in url or not colon or not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError(f"--url {url!r} is no address; expected HOST:PORT, such as localhost:8500")
    return url


def _parse_shape(shape: str) -> tuple[int, ...]:
    words = [word.strip() for word in shape.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) < 2**31 for word in words):
        raise UsageError(f"--shape {shape!r} is no shape; expected sizes such as {PICTURE}, without the batch")
    return tuple(int(word) for word in words)


def _load_certificates(path: Path) -> bytes:
    from cryptography import x509

    from tacit.cli.model.files import load_file
    from tacit.pki.keys import CERTIFICATE_ERRORS

    unit = x509.NameOID.ORGANIZATIONAL_UNIT_NAME

    pem = load_file(path, what="a certificate (PEM)", largest=MAX_CERTIFICATES)
    try:
        subjects = [one.subject for one in x509.load_pem_x509_certificates(pem)]
        units = {str(found.value) for one in subjects for found in one.get_attributes_for_oid(unit)}
    except CERTIFICATE_ERRORS as exc:
        raise FileInputError(
            f"{path}: no certificate in PEM form (it begins with -----BEGIN CERTIFICATE-----)"
        ) from exc
    for mark in sorted(units & {"SIMULATED", "UNATTESTED"}):
        typer.echo(f"Note: by {path} this server is {mark}: nothing protects the input.", err=True)
    return pem


def _load_picture(path: Path, row: tuple[int, ...]) -> "NDArray[np.float32]":
    """The picture, resized to height × width, as (1, height, width, channels) float32 of 0..255."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    from tacit.cli.model.files import file_error, file_size

    file_size(path, what="a picture", largest=MAX_PICTURE)
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a small file that unpacks to a huge picture; here that is a refusal.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                plain = image.convert("RGB" if row[2] == 3 else "L").resize((row[1], row[0]))
    except UnidentifiedImageError as exc:
        raise FileInputError(f"{path}: not a picture that can be read; JPEG and PNG are") from exc
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as exc:
        raise FileInputError(f"{path}: too many pixels; make it smaller first") from exc
    except (SyntaxError, ValueError) as exc:
        # Some of Pillow's readers answer damaged data with these.
        raise FileInputError(f"{path}: the picture is damaged ({exc})") from exc
    except OSError as exc:
        # Pillow reports a picture that was cut short as an OSError without a number.
        raise (file_error(path, exc) if exc.errno else FileInputError(f"{path}: damaged ({exc})")) from exc
    return np.asarray(plain, dtype=np.float32).reshape(1, *row)
