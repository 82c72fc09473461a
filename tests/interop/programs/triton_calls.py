"""tritonclient's calls, right and wrong: `triton_calls.py grpc|http|grpc-aio|http-aio HOST:PORT [SESSION]`.

With SESSION, a file for `attested`, they go to a server that an attested coordinator vouches for. Not part of our environment.
"""

import asyncio
import inspect
import queue
import sys

import numpy as np

KIND, ADDRESS, *SESSION = sys.argv[1:]
DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "INT8": np.int8, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
EXPECTED = ROWS @ (np.arange(12, dtype=np.float32).reshape(4, 3) / 10)

if KIND == "grpc":
    import tritonclient.grpc as client_of
elif KIND == "http":
    import tritonclient.http as client_of
elif KIND == "grpc-aio":
    import tritonclient.grpc.aio as client_of
else:
    import tritonclient.http.aio as client_of
from tritonclient.utils import InferenceServerException

HTTP = KIND.startswith("http")


async def done(value):
    return await value if inspect.isawaitable(value) else value


async def refused(make, *words):
    try:
        await done(make())
    except InferenceServerException as exc:
        assert any(word in str(exc) for word in words), exc
        return
    raise AssertionError(f"was not refused: {words}")


def given(array, datatype, name="x", **more):
    tensor = client_of.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, **more)
    return tensor


async def facts(client):
    assert await done(client.is_server_live())
    assert await done(client.is_server_ready())
    assert await done(client.is_model_ready("m"))
    assert not await done(client.is_model_ready("m", "77"))
    assert not await done(client.is_model_ready("nobody"))
    plain = {} if HTTP else {"as_json": True}
    server = await done(client.get_server_metadata(**plain))
    assert server["name"] == "tacit" and "statistics" in server["extensions"], server
    metadata = await done(client.get_model_metadata("m", **plain))
    assert metadata["inputs"][0]["datatype"] == "FP32", metadata
    assert [int(size) for size in metadata["inputs"][0]["shape"]] == [-1, 4], metadata
    config = await done(client.get_model_config("m", **plain))
    config = config if HTTP else config["config"]
    assert config["input"][0]["data_type"] == "TYPE_FP32", config
    index = await done(client.get_model_repository_index(**plain))
    models = index if HTTP else index["models"]
    assert all(model["state"] == "READY" for model in models), models
    await refused(lambda: client.get_model_metadata("no"), "unknown model")


async def inferences(client):
    for version in ("", "1"):
        result = await done(client.infer("m", [given(ROWS, "FP32")], model_version=version, request_id="7"))
        np.testing.assert_allclose(result.as_numpy("y"), EXPECTED, rtol=1e-5)
        response = result.get_response()
        assert (response["id"] if HTTP else response.id) == "7"
    outputs = [client_of.InferRequestedOutput("y", class_count=2)]
    classes = (await done(client.infer("m", [given(ROWS, "FP32")], outputs=outputs))).as_numpy("y")
    assert classes.shape == (2, 2) and classes[0][0].endswith(b":2"), classes
    for datatype, kind in DTYPES.items():
        array = np.array([0, 1, 1], kind)
        result = await done(client.infer(f"same_{datatype.lower()}", [given(array, datatype)]))
        assert np.array_equal(result.as_numpy("y"), array), datatype
    if HTTP:
        result = await done(client.infer(
            "m", [given(ROWS, "FP32", binary_data=False)],
            outputs=[client_of.InferRequestedOutput("y", binary_data=False)],
        ))  # fmt: skip
        np.testing.assert_allclose(result.as_numpy("y"), EXPECTED, rtol=1e-5)
    many = np.tile(ROWS, (500, 1))  # small messages go as they are, whatever is asked
    for way in ("gzip", "deflate"):
        asked = {"request_compression_algorithm" if HTTP else "compression_algorithm": way}
        result = await done(client.infer("m", [given(many, "FP32")], **asked))
        np.testing.assert_allclose(result.as_numpy("y"), np.tile(EXPECTED, (500, 1)), rtol=1e-5)


async def wrong(client):
    await refused(lambda: client.infer("no", [given(ROWS, "FP32")]), "unknown model")
    await refused(lambda: client.infer("m", [given(ROWS, "FP32")], model_version="9"), "unknown model", "version 9")
    await refused(lambda: client.infer("m", [given(ROWS.astype(np.int32), "INT32")]), "int32")
    await refused(lambda: client.infer("m", [given(ROWS, "FP32", name="z")]), "z")
    await refused(lambda: client.infer("m", [given(ROWS[:, :3].copy(), "FP32")]), "shape")
    await refused(lambda: client.infer("m", [given(ROWS, "FP32")], outputs=[client_of.InferRequestedOutput("z")]), "z")
    shared = client_of.InferInput("x", [2, 4], "FP32")
    shared.set_shared_memory("region", 32)
    await refused(lambda: client.infer("m", [shared]), "shared memory")
    await refused(lambda: client.get_system_shared_memory_status(), "shared memory")
    await refused(lambda: client.get_cuda_shared_memory_status(), "shared memory")
    await refused(lambda: client.register_system_shared_memory("r", "/key", 64), "shared memory")


async def management(client):
    plain = {} if HTTP else {"as_json": True}
    rows = (await done(client.get_inference_statistics("m", **plain)))["model_stats"]
    assert int(rows[0]["inference_stats"]["success"]["count"]) >= 2, rows
    assert len((await done(client.get_inference_statistics(**plain)))["model_stats"]) > 1
    settings = await done(client.get_trace_settings("m", **plain))
    assert "OFF" in str(settings), settings
    await refused(lambda: client.get_trace_settings("no", **plain), "unknown model")
    await refused(lambda: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}), "trace_level")
    assert await done(client.get_log_settings(**plain))
    await refused(lambda: client.update_log_settings({"log_verbose_level": 1}), "log_verbose_level")
    await done(client.unload_model("m"))
    assert not await done(client.is_model_ready("m"))
    await refused(lambda: client.infer("m", [given(ROWS, "FP32")]), "unknown model")
    await done(client.load_model("m"))
    assert await done(client.is_model_ready("m"))
    await refused(lambda: client.load_model("no"), "no")
    await refused(lambda: client.load_model("m", config="{}"), "config")


def callbacks(client):
    """The callback and stream forms of the synchronous clients."""
    if KIND == "http":
        waiting = [client.async_infer("m", [given(ROWS, "FP32")]) for _ in range(8)]
        for each in waiting:
            np.testing.assert_allclose(each.get_result().as_numpy("y"), EXPECTED, rtol=1e-5)
        return
    found = queue.Queue()
    for _ in range(8):
        client.async_infer("m", [given(ROWS, "FP32")], lambda result, error: found.put((result, error)))
    for _ in range(8):
        result, error = found.get(timeout=60)
        assert error is None, error
        np.testing.assert_allclose(result.as_numpy("y"), EXPECTED, rtol=1e-5)
    client.start_stream(lambda result, error: found.put((result, error)))
    for name in ("m", "no", "m"):
        client.async_stream_infer(name, [given(ROWS, "FP32")], enable_empty_final_response=True)
    kinds = [found.get(timeout=60)[1] is None for _ in range(3)]
    client.stop_stream()
    assert kinds == [True, False, True], kinds


async def stream(client):
    async def questions():
        for name in ("m", "no", "m"):
            yield {"model_name": name, "inputs": [given(ROWS, "FP32")]}

    kinds = [error is None async for _, error in client.stream_infer(questions())]
    assert kinds == [True, False, True], kinds


async def connected():
    if SESSION:
        from attested import opened

        session = opened(SESSION[0])
        if KIND == "grpc":
            return session.triton_client(ADDRESS)
        if KIND == "grpc-aio":
            return await session.triton_aio_client(ADDRESS)
        if KIND == "http":
            return session.triton_http_client(ADDRESS, concurrency=4)
        return client_of.InferenceServerClient(ADDRESS, ssl=True, ssl_context=session.ssl_context())
    return client_of.InferenceServerClient(ADDRESS, **({"concurrency": 4} if KIND == "http" else {}))


async def main():
    client = await connected()
    await facts(client)
    await inferences(client)
    await wrong(client)
    if KIND.endswith("-aio"):
        if KIND == "grpc-aio":
            await stream(client)
    else:
        callbacks(client)
    await management(client)
    await done(client.close())


asyncio.run(main())
print("done")
