"""TensorFlow Serving's own stubs with TensorFlow's tensors: `stubs_calls.py grpc HOST:PORT [SESSION]`.

With SESSION, a file for `attested`, over the channel of an attested session. Not part of our environment.
"""

import sys

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

ADDRESS = sys.argv[2]
ROWS = np.arange(8, dtype=np.float32).reshape(2, 4)
EXPECTED = ROWS @ (np.arange(12, dtype=np.float32).reshape(4, 3) / 10)
KINDS = {"bool": bool, "uint8": np.uint8, "int8": np.int8, "int32": np.int32, "int64": np.int64,
         "fp16": np.float16, "fp32": np.float32, "fp64": np.float64}  # fmt: skip

if sys.argv[3:]:
    from attested import opened

    stubs = opened(sys.argv[3]).serving_stubs(ADDRESS)
    predictions, models = stubs.prediction, stubs.model
else:
    channel = grpc.insecure_channel(ADDRESS)
    predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    models = model_service_pb2_grpc.ModelServiceStub(channel)


def question(model="m", array=ROWS, alias="x", version=None, signature=""):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    request.inputs[alias].CopyFrom(tf.make_tensor_proto(array))
    return request


def refused(call, request, code):
    try:
        call(request)
    except grpc.RpcError as exc:
        assert exc.code() is code, exc
        return
    raise AssertionError(f"was not refused: {code}")


for version in (None, 1, 0):
    response = predictions.Predict(question(version=version), timeout=60)
    np.testing.assert_allclose(tf.make_ndarray(response.outputs["y"]), EXPECTED, rtol=1e-5)
    assert response.model_spec.version.value == 1
filtered = question()
filtered.output_filter.append("y")
assert list(predictions.Predict(filtered).outputs) == ["y"]
for name, kind in KINDS.items():
    array = np.array([0, 1, 1]).astype(kind)
    response = predictions.Predict(question(f"same_{name}", array))
    assert np.array_equal(tf.make_ndarray(response.outputs["y"]), array), name

metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
metadata.model_spec.name = "m"
signatures = get_model_metadata_pb2.SignatureDefMap()
assert predictions.GetModelMetadata(metadata).metadata["signature_def"].Unpack(signatures)
assert [d.size for d in signatures.signature_def["serving_default"].inputs["x"].tensor_shape.dim] == [-1, 4]
status = get_model_status_pb2.GetModelStatusRequest()
status.model_spec.name = "m"
(version,) = models.GetModelStatus(status).model_version_status
assert (version.version, version.state) == (1, get_model_status_pb2.ModelVersionStatus.AVAILABLE)

refused(predictions.Predict, question("no"), grpc.StatusCode.NOT_FOUND)
refused(predictions.Predict, question(version=9), grpc.StatusCode.NOT_FOUND)
refused(predictions.Predict, question(alias="z"), grpc.StatusCode.INVALID_ARGUMENT)
refused(predictions.Predict, question(array=ROWS.astype(np.int32)), grpc.StatusCode.INVALID_ARGUMENT)
refused(predictions.Predict, question(array=ROWS[:, :3]), grpc.StatusCode.INVALID_ARGUMENT)
refused(predictions.Predict, question(signature="no"), grpc.StatusCode.FAILED_PRECONDITION)
status.model_spec.name = "no"
refused(models.GetModelStatus, status, grpc.StatusCode.NOT_FOUND)
print("done")
