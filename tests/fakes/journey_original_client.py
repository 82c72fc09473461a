"""The demo's own client as far as it meets a server: grpc.aio with one certificate, no options, one request over and over.

    python journey_original_client.py --url HOST:PORT --crt FILE --batch N --cnum N --loop N

It uses no code of ours but the generated messages, which stand for tensorflow-serving-api's.
"""

import argparse
import asyncio
import time
from pathlib import Path

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict

from tacit.wire.pb import serving_pb2, tensorflow_pb2


def request_of(batch: int) -> serving_pb2.PredictRequest:
    picture = np.random.randint(0, 255, (batch, 224, 224, 3), dtype=np.uint8).astype(np.float32)
    request = serving_pb2.PredictRequest()
    request.model_spec.name = "resnet50"
    request.model_spec.signature_name = "serving_default"
    tensor = request.inputs["input"]
    tensor.dtype = tensorflow_pb2.DT_FLOAT
    for size in picture.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = picture.tobytes()
    return request


async def one_channel(url: str, certificate: bytes, task: int, batch: int, loops: int) -> serving_pb2.PredictResponse:
    async with grpc.aio.secure_channel(url, grpc.ssl_channel_credentials(root_certificates=certificate)) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=serving_pb2.PredictRequest.SerializeToString,
            response_deserializer=serving_pb2.PredictResponse.FromString,
        )
        request = request_of(batch)
        for index in range(loops):
            started = time.perf_counter()
            response = await predict(request)
            latency = time.perf_counter() - started
            print(
                f"query: secure channel, task {task}, batch {batch}, loop_idx {index}, "
                f"latency(ms) {1000 * latency:.1f}, tps: {batch / latency:.1f}"
            )
    return response


async def main() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("url", str), ("crt", Path), ("batch", int), ("cnum", int), ("loop", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    given = parser.parse_args()
    certificate = given.crt.read_bytes()
    tasks = [one_channel(given.url, certificate, task, given.batch, given.loop) for task in range(given.cnum)]
    answers = await asyncio.gather(*tasks)
    print(MessageToDict(answers[0]))
    print(f"rows: {[dim.size for dim in answers[0].outputs['predict'].tensor_shape.dim]}")


asyncio.run(main())
