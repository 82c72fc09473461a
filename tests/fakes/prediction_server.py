"""A gRPC server that answers every Predict with the same tensor, and keeps what it was asked."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from tacit.wire.pb import serving_pb2, tensorflow_pb2

PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass
class PredictionServer:
    port: int = 0
    requests: list[serving_pb2.PredictRequest] = field(default_factory=list)


def answer_of(values: list[float]) -> bytes:
    response = serving_pb2.PredictResponse()
    response.model_spec.name = "resnet50"
    tensor = response.outputs["predict"]
    tensor.dtype = tensorflow_pb2.DT_FLOAT
    tensor.tensor_shape.dim.add(size=len(values))
    tensor.float_val.extend(values)
    return response.SerializeToString()


@contextmanager
def prediction_server(
    credentials: tuple[bytes, bytes] | None = None,
    answer: Callable[[grpc.ServicerContext], bytes] = lambda context: answer_of([0.25, 0.75]),
) -> Iterator[PredictionServer]:
    """`credentials`: key and certificate (PEM), or None for plaintext. `answer` gives the bytes, or aborts."""
    server = PredictionServer()

    def predict(raw: bytes, context: grpc.ServicerContext) -> bytes:
        server.requests.append(serving_pb2.PredictRequest.FromString(raw))
        return answer(context)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
            return grpc.unary_unary_rpc_method_handler(predict) if details.method == PREDICT else None

    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    running = grpc.server(ThreadPoolExecutor(8), handlers=[Handler()], options=options)
    if credentials is None:
        server.port = running.add_insecure_port("127.0.0.1:0")
    else:
        server.port = running.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([credentials]))
    running.start()
    try:
        yield server
    finally:
        running.stop(0).wait()
