"""Run by TensorFlow's own interpreter: the facts of TensorFlow Serving's integration tests, by its own stubs.

Prints one JSON object with what became of each.
"""

import json
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2  # noqa: F401 -- its import is a part of the test

GRPC, REST, SOCKET, BASE = sys.argv[1:5]
channel = grpc.insecure_channel(GRPC)
prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
models = model_service_pb2_grpc.ModelServiceStub(channel)
WAIT = 20.0


def check(good: bool, found: Any) -> None:
    if not good:
        raise AssertionError(str(found))


def predict(
    name: str, values: list[float], *, stub: Any = prediction, filtered: bool = True, shape: Any = None, **more: Any
) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = more.get("signature", "")
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.extend(values)
    for size in shape or [len(values)]:
        request.inputs["x"].tensor_shape.dim.add().size = size
    if filtered:
        request.output_filter.append("y")
    return stub.Predict(request, WAIT)


def spec_is(spec: Any, name: str, signature: str, version: int) -> None:
    check((spec.name, spec.signature_name, spec.version.value) == (name, signature, version), spec)


def examples(request: Any, signature: str) -> Any:
    if signature:
        request.model_spec.name, request.model_spec.signature_name = "half_plus_two", signature
    request.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    return request


def rest(path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(f"http://{REST}{path}", data=data), timeout=WAIT) as answer:
        return answer.read().decode()


def status() -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    (found,) = models.GetModelStatus(request, WAIT).model_version_status
    check((found.version, found.status.error_code, found.state) == (123, 0, 30), found)


def metadata() -> None:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    found = prediction.GetModelMetadata(request, WAIT)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    check(found.metadata["signature_def"].Unpack(signatures), found)
    wanted = {"serving_default", "classify_x_to_y", "regress_x_to_y"}
    check(wanted <= set(signatures.signature_def), signatures)
    check(signatures.signature_def["classify_x_to_y"].inputs["inputs"].dtype == 7, signatures)
    check(found.model_spec.version.value == 123, found)


def classify() -> None:
    found = prediction.Classify(examples(classification_pb2.ClassificationRequest(), "classify_x_to_y"), WAIT)
    ((one,),) = [row.classes for row in found.result.classifications]
    check(one.score == 3.0, found)
    spec_is(found.model_spec, "half_plus_two", "classify_x_to_y", 123)


def regress() -> None:
    found = prediction.Regress(examples(regression_pb2.RegressionRequest(), "regress_x_to_y"), WAIT)
    check([one.value for one in found.result.regressions] == [3.0], found)
    spec_is(found.model_spec, "half_plus_two", "regress_x_to_y", 123)


def multi_inference() -> None:
    request = examples(inference_pb2.MultiInferenceRequest(), "")
    for signature, method in (("regress_x_to_y", "regress"), ("classify_x_to_y", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "half_plus_two", signature
    first, second = prediction.MultiInference(request, WAIT).results
    check(first.regression_result.regressions[0].value == 3.0, first)
    check(second.classification_result.classifications[0].classes[0].score == 3.0, second)


def predict_saved_model() -> None:
    for name, answer in (("half_plus_two", 3.0), ("half_plus_three", 4.0)):
        for filtered in (True, False):
            for shape in ([1], [1, 1]):
                found = predict(name, [2.0], filtered=filtered, shape=shape)
                check(list(found.outputs["y"].float_val) == [answer], found)
                check([dim.size for dim in found.outputs["y"].tensor_shape.dim] == shape, found)
                spec_is(found.model_spec, name, "serving_default", 123)


def predict_of_tensorflow_2() -> None:
    found = predict("module", [2.0])
    check(list(found.outputs["y"].float_val) == [7.0], found)


def a_signature_with_inputs_of_its_own_is_answered_by_itself() -> None:
    check(list(predict("module", [2.0], signature="one").outputs["y"].float_val) == [3.0], "")
    for signature, expected in {"serving_default": 5.0, "again": 5.0, "one": 3.0, "free": 4.0}.items():
        found = predict("signatures", [2.0], signature=signature)
        check(list(found.outputs["y"].float_val) == [expected], found)


def predict_of_keras() -> None:
    found = predict("keras", [5.0], shape=[1, 1], filtered=False)
    ((_, output),) = found.outputs.items()
    check(list(output.float_val) == [5.0], found)


def predict_on_a_unix_socket() -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"unix:{SOCKET}"))
    check(list(predict("half_plus_two", [2.0], stub=stub).outputs["y"].float_val) == [3.0], "")


def a_bad_model_is_not_found() -> None:
    try:
        predict("bad", [2.0])
    except grpc.RpcError as exc:
        check(exc.code() is grpc.StatusCode.NOT_FOUND, exc)
        check("Servable not found for request: Latest(bad)" in exc.details(), exc)
    else:
        raise AssertionError("it answered")


def rest_predict() -> None:
    found = json.loads(rest("/v1/models/half_plus_two:predict", {"instances": [2.0, 3.0, 4.0]}))
    check(found == {"predictions": [3.0, 3.5, 4.0]}, found)


def rest_predict_by_column() -> None:
    found = json.loads(rest("/v1/models/half_plus_two:predict", {"inputs": [2.0, 3.0, 4.0]}))
    check(found == {"outputs": [3.0, 3.5, 4.0]}, found)


def rest_classify() -> None:
    body = {"signature_name": "classify_x_to_y", "examples": [{"x": 2.0}]}
    found = json.loads(rest("/v1/models/half_plus_two:classify", body))
    check(found == {"results": [[["", 3.0]]]}, found)


def rest_regress() -> None:
    body = {"signature_name": "regress_x_to_y", "examples": [{"x": 2.0}]}
    found = json.loads(rest("/v1/models/half_plus_two:regress", body))
    check(found == {"results": [3.0]}, found)


def rest_status() -> None:
    found = json_format.Parse(rest("/v1/models/half_plus_two"), get_model_status_pb2.GetModelStatusResponse())
    check(found.model_version_status[0].version == 123, found)


def rest_metadata() -> None:
    found = json.loads(rest("/v1/models/half_plus_two/metadata"))
    check(found["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}, found)
    check("classify_x_to_y" in found["metadata"]["signature_def"]["signature_def"], found)


def rest_metrics() -> None:
    check(":tensorflow:serving:request_count{" in rest("/monitoring/prometheus/metrics"), "")


def z_reload() -> None:  # the last: afterwards there are other models
    request = model_management_pb2.ReloadConfigRequest()
    config = request.config.model_config_list.config.add(
        name="again", base_path=f"{BASE}/half_plus_three", model_platform="tensorflow"
    )
    config.version_labels["stable"] = 123
    found = models.HandleReloadConfigRequest(request, WAIT)
    check(found.status.error_code == 0, found)
    check(list(predict("again", [2.0]).outputs["y"].float_val) == [4.0], "")
    try:
        predict("half_plus_two", [2.0])
    except grpc.RpcError as exc:
        check(exc.code() is grpc.StatusCode.NOT_FOUND, exc)


CASES: list[Callable[[], None]] = [
    status,
    metadata,
    classify,
    regress,
    multi_inference,
    predict_saved_model,
    predict_of_tensorflow_2,
    a_signature_with_inputs_of_its_own_is_answered_by_itself,
    predict_of_keras,
    predict_on_a_unix_socket,
    a_bad_model_is_not_found,
    rest_predict,
    rest_predict_by_column,
    rest_classify,
    rest_regress,
    rest_status,
    rest_metadata,
    rest_metrics,
    z_reload,
]
results = {}
for case in CASES:
    try:
        case()
        results[case.__name__] = "good"
    except Exception as exc:
        results[case.__name__] = f"{type(exc).__name__}: {exc}"[:600]
print(tf.__version__, json.dumps(results))
