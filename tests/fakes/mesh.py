"""A mesh port on loopback that gives every marble what the test says, over TLS that asks for a certificate.

    with mesh(answer) as port: ...

`answer(request, certificate)` takes the parsed request and the client's certificate (DER) and gives `Parameters`; to
refuse it raises RequestError.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fakes.tee import NOW
from tacit.edge import GrpcCall
from tacit.edge.server import serve_grpc
from tacit.pki import KeyPair, issue_intermediate, issue_marble_root, issue_root
from tacit.pki.tls import server_context
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse, Parameters

Answer = Callable[[ActivationRequest, bytes], Parameters]


@contextmanager
def mesh(answer: Answer, *, port: int = 0, intermediate: KeyPair | None = None) -> Iterator[int]:
    """The port of a running mesh API, with the key of `intermediate` if that is given."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    intermediate = intermediate or issue_intermediate(issue_root((), now=NOW), (), now=NOW)
    shown = issue_marble_root(intermediate, now=NOW)

    async def activate(raw: bytes, call: GrpcCall) -> bytes:
        assert call.peer_certificate is not None
        parameters = answer(ActivationRequest.FromString(raw), call.peer_certificate)
        return ActivationResponse(parameters=parameters).SerializeToString()

    async def start():  # type: ignore[no-untyped-def]
        tls = server_context(lambda: (shown.certificate_pem, shown.key_pem), client_certificates="require", alpn=["h2"])
        handlers = {"/rpc.Marble/Activate": activate}
        return await serve_grpc(handlers, host="127.0.0.1", port=port, tls=tls, max_message=4 << 20)

    listener = asyncio.run_coroutine_threadsafe(start(), loop).result(60)
    try:
        yield listener.port
    finally:
        asyncio.run_coroutine_threadsafe(listener.close(0.2), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.close()
