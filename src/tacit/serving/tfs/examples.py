"""Examples in JSON, by TensorFlow Serving's rules: an object for each, its features by name.

A number with a fraction or an exponent makes a list of floats, one without a list of integers; true and false are
integers; text and `{"b64": "..."}` are bytes. A list holds values of one kind.

Source: tensorflow_serving/util/json_tensor.cc (FillClassifyRegressRequestFromJson).
"""

import json
from collections.abc import Mapping
from typing import Any

from tacit.errors import RequestError, Status
from tacit.serving.tfs.values import parse_bytes
from tacit.wire.pb.tensorflow_pb2 import Example, Feature

_LARGEST, _SMALLEST = 2**63 - 1, -(2**63)


def parse_json_examples(document: Mapping[str, Any]) -> list[bytes]:
    """Serialized examples of a classify or regress body, each with the context in front of it.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    context = b""
    if "context" in document:
        context = _example(document["context"], "context")
    if "examples" not in document:
        raise _refusal("When parsing JSON, key 'examples' is expected and was not found")
    examples = document["examples"]
    if not isinstance(examples, list):
        raise _refusal("Expecting 'examples' value to be an list/array")
    if not examples:
        raise _refusal("No values in 'examples' array")
    return [context + _example(example, f"examples[{place}]") for place, example in enumerate(examples)]


def _example(value: Any, place: str) -> bytes:
    if not isinstance(value, dict):
        raise _refusal(f"Example must be JSON object but got {_show(value)} at {place}")
    example = Example()
    for name, given in value.items():
        try:
            _fill(example.features.feature[name], name, given)
        except UnicodeEncodeError as exc:
            raise _refusal(f"a feature's name at {place} is no text") from exc
    return example.SerializeToString()


def _fill(feature: Feature, name: str, given: Any) -> None:
    values = given if isinstance(given, list) else [given]
    kinds = {_kind(value, name) for value in values}
    if len(kinds) > 1:
        raise _refusal(f"Unexpected element type in feature {name}: expected values of one kind, found {_show(given)}")
    for kind in kinds:
        if kind == "float_list":
            feature.float_list.value.extend(_floats(values))
        elif kind == "int64_list":
            feature.int64_list.value.extend(int(value) for value in values)
        else:
            feature.bytes_list.value.extend(parse_bytes(value) for value in values)


def _floats(values: list[Any]) -> list[float]:
    return [float(value) for value in values]


def _kind(value: Any, name: str) -> str:
    if isinstance(value, float):
        return "float_list"
    if isinstance(value, int):  # true and false among them
        if not _SMALLEST <= value <= _LARGEST:
            raise _refusal(f"Feature: {name} has {value}, which is no int64")
        return "int64_list"
    if isinstance(value, str) or (isinstance(value, dict) and set(value) == {"b64"}):
        return "bytes_list"
    raise _refusal(f"Feature: {name} has an unexpected value: {_show(value)}")


def _show(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 64 else shown[:64] + "..."


def _refusal(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)
