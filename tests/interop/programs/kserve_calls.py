"""kserve's clients: `kserve_calls.py grpc|rest HOST:PORT`. Not part of our environment."""

import asyncio
import sys

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

KIND, ADDRESS = sys.argv[1:]
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
EXPECTED = ROWS @ (np.arange(12, dtype=np.float32).reshape(4, 3) / 10)


def question(name="m", rows=ROWS, datatype="FP32", binary=False):
    tensor = InferInput("x", list(rows.shape), datatype)
    tensor.set_data_from_numpy(rows, binary_data=binary)
    return InferRequest(model_name=name, infer_inputs=[tensor], request_id="7")


async def refused(make, word):
    try:
        await make()
    except Exception as exc:
        assert word in str(exc) + str(getattr(exc, "details", lambda: "")()) + str(getattr(exc, "response", "")), exc
        return
    raise AssertionError(f"was not refused: {word}")


def check(response):
    np.testing.assert_allclose(np.asarray(response.outputs[0].as_numpy()).reshape(EXPECTED.shape), EXPECTED, rtol=1e-5)


async def rest():
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    base = f"http://{ADDRESS}"
    assert await client.is_server_live(base)
    assert await client.is_server_ready(base)
    assert await client.is_model_ready(base, "m")
    for binary in (False, True):
        check(await client.infer(base, question(binary=binary), model_name="m"))
    await refused(lambda: client.infer(base, question("no"), model_name="no"), "404")
    await refused(lambda: client.infer(base, question(rows=ROWS[:, :3].copy()), model_name="m"), "400")
    await client.close()
    old = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
    answer = await old.infer(base, {"instances": ROWS.tolist()}, model_name="m")
    np.testing.assert_allclose(answer["predictions"], EXPECTED, rtol=1e-5)
    await old.close()


async def grpc():
    client = InferenceGRPCClient(ADDRESS, retries=0)
    assert await client.is_server_live()
    assert await client.is_server_ready()
    assert await client.is_model_ready("m")
    assert not await client.is_model_ready("nobody")
    for binary in (False, True):
        check(await client.infer(question(binary=binary)))
    await refused(lambda: client.infer(question("no")), "unknown model")
    await refused(lambda: client.infer(question(rows=ROWS[:, :3].copy())), "shape")
    await client.close()


asyncio.run(grpc() if KIND == "grpc" else rest())
print("done")
