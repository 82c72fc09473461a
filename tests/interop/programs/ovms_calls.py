"""ovmsclient's calls, which are TensorFlow Serving's: `ovms_calls.py grpc|http HOST:PORT`. Not part of our environment."""

import sys

import numpy as np
from ovmsclient import make_grpc_client, make_http_client
from ovmsclient.tfs_compat.base.errors import InvalidInputError, ModelNotFoundError

KIND, ADDRESS = sys.argv[1:]
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
EXPECTED = ROWS @ (np.arange(12, dtype=np.float32).reshape(4, 3) / 10)


def refused(kind, make):
    try:
        make()
    except kind:
        return
    raise AssertionError(f"was not refused: {kind}")


client = (make_grpc_client if KIND == "grpc" else make_http_client)(ADDRESS)
for version in (0, 1):
    assert client.get_model_status("m", version) == {
        1: {"state": "AVAILABLE", "error_code": 0, "error_message": "OK"}
    } or (client.get_model_status("m", version)[1]["state"] == "AVAILABLE")
    metadata = client.get_model_metadata("m", version)
    if KIND == "grpc":
        assert metadata["inputs"]["x"]["shape"] == [-1, 4], metadata
    else:
        assert "x" in metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"], metadata
    np.testing.assert_allclose(client.predict({"x": ROWS}, "m", version), EXPECTED, rtol=1e-5)
refused(ModelNotFoundError, lambda: client.predict({"x": ROWS}, "no"))
refused(ModelNotFoundError, lambda: client.get_model_status("no"))
refused(ModelNotFoundError, lambda: client.get_model_metadata("m", 9))
refused(InvalidInputError, lambda: client.predict({"z": ROWS}, "m"))
refused(InvalidInputError, lambda: client.predict({"x": ROWS[:, :3].copy()}, "m"))
print("done")
