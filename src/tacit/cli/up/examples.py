"""How to talk to what `tacit up` started: examples that work when pasted."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tacit.cli.up.stage import Stage
from tacit.client.inference import ServingClient, Signature, TensorSpec
from tacit.client.session import DEFAULT_SIGNATURE
from tacit.errors import PeerError, RequestError

# TensorFlow's type numbers whose JSON value is a whole number; the rest of the numeric ones take a decimal.
_WHOLE = frozenset({3, 4, 5, 6, 9, 17, 22, 23})
_BOOL, _STRING = 10, 7
# What is tried for a free first size and for the other free ones, until the model takes it: a convolution with free
# height and width needs more than 1.
_FREE_SIZES = ((1, 1), (1, 8), (1, 32), (1, 224), (8, 8), (32, 32))
_MAX_VALUES = 1 << 22  # in one input of an example
_NUMPY = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool_",  # numpy 1.24 to 1.26 have no `bool`
    19: "float16",
}


def describe(stage: Stage, roots: Path) -> str:
    """A Python, a curl and a TensorFlow Serving example for the model that is being served.

    Inputs are zeros of the model's own shapes; for its free sizes stand the first that the model was found to take.
    Raises: ConnectError.
    """
    with ServingClient(stage.server, roots_pem=roots.read_bytes()) as client:
        signatures = client.signatures(stage.model)
        name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else min(signatures, default=DEFAULT_SIGNATURE)
        if name not in signatures:
            raise PeerError(
                f"the server at {stage.server} tells no signature of {stage.model}, so nothing can be asked"
            )

        def ask(inputs: Mapping[str, NDArray[Any]]) -> None:
            client.predict(stage.model, inputs, signature_name=name)

        signature = settle_sizes(signatures[name], ask)
    return "\n".join(
        (
            "# Python, with tacit: the coordinator is checked first",
            _python(stage, name, signature),
            "",
            "# curl: trusts the certificate that the checked coordinator gave",
            _curl(stage, name, signature, roots),
            "",
            "# TensorFlow Serving's own Python stubs (pip install tensorflow-serving-api)",
            _tensorflow(stage, name, signature, roots),
            "",
            "# What was set and read, and who was given which key",
            _log(stage),
            "",
        )
    )


def _log(stage: Stage) -> str:
    certificate, key = stage.reader
    return f"tacit log {stage.host} --cert {quote(str(certificate))} --key {quote(str(key))}"


def settle_sizes(signature: Signature, ask: Callable[[Mapping[str, NDArray[Any]]], None]) -> Signature:
    """The signature with a number for each free size, such that `ask` takes zeros of these shapes.

    Where none that are tried will do, they are 1. Raises: ConnectError, as `ask` does.
    """
    tried = set()
    for rows, others in _FREE_SIZES:
        specs = {name: _settled(spec, rows, others) for name, spec in signature.inputs.items()}
        shapes = tuple(spec.shape or () for spec in specs.values())
        if shapes in tried or any(prod(shape) > _MAX_VALUES for shape in shapes):
            continue
        tried.add(shapes)
        with contextlib.suppress(RequestError):
            ask({name: _array(spec) for name, spec in specs.items()})
            return replace(signature, inputs=specs)
    return replace(signature, inputs={name: _settled(spec, 1, 1) for name, spec in signature.inputs.items()})


def _settled(spec: TensorSpec, rows: int, others: int) -> TensorSpec:
    sizes = enumerate(spec.shape or ())
    return replace(spec, shape=tuple(size if size > 0 else others if at else rows for at, size in sizes))


def _array(spec: TensorSpec) -> NDArray[Any]:
    if spec.dtype == _STRING:
        return np.full(spec.shape or (), "text")
    return np.zeros(spec.shape or (), dtype=_NUMPY.get(spec.dtype, "float32"))


def _sizes(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    return shape or ()


def _arrays(signature: Signature) -> Mapping[str, str]:
    """Numpy code for an input of zeros, by input."""
    return {
        name: f"np.zeros({list(_sizes(spec.shape))!r}, dtype=np.{_NUMPY.get(spec.dtype, 'float32')})"
        if spec.dtype != _STRING
        else f"np.full({list(_sizes(spec.shape))!r}, 'text')"
        for name, spec in signature.inputs.items()
    }


def _python(stage: Stage, name: str, signature: Signature) -> str:
    chosen = "" if name == DEFAULT_SIGNATURE else f", signature_name={name!r}"
    inputs = ", ".join(f"{name!r}: {code}" for name, code in _arrays(signature).items())
    return "\n".join(
        (
            f"{_interpreter()} - <<'END'",
            "import numpy as np, tacit",
            f'session = tacit.connect("{stage.host}")',
            f'model = session.model("{stage.model}", address="{stage.server}")',
            f"print(model.predict({{{inputs}}}{chosen}))",
            "END",
        )
    )


def _interpreter() -> str:
    """The Python that has tacit: by its short name where the shell finds that one, else by its path."""
    own = Path(sys.executable)
    found = shutil.which("python")
    if found is not None and Path(found).parent == own.parent:
        return "python"
    named = own.with_name("python")
    return quote(str(named if named.exists() else own))


def _curl(stage: Stage, name: str, signature: Signature, roots: Path) -> str:
    inputs = {key: _zeros(_sizes(spec.shape), spec.dtype) for key, spec in signature.inputs.items()}
    chosen = {} if name == DEFAULT_SIGNATURE else {"signature_name": name}
    body = json.dumps({**chosen, "inputs": inputs})
    url = f"https://{stage.rest}/v1/models/{stage.model}:predict"
    if len(body) <= 2000:
        return f"curl --cacert {quote(str(roots))} -d {quote(body)} {url}"
    # A command line that nobody could read, and that some shells refuse: the body goes to a file.
    file = roots.with_name("input.json")
    file.write_text(body)
    return f"curl --cacert {quote(str(roots))} -d @{quote(str(file))} {url}"


def _zeros(sizes: tuple[int, ...], dtype: int) -> Any:
    if sizes:
        return [_zeros(sizes[1:], dtype) for _ in range(sizes[0])]
    if dtype == _BOOL:
        return False
    if dtype == _STRING:
        return "text"
    return 0 if dtype in _WHOLE else 0.0


def _tensorflow(stage: Stage, name: str, signature: Signature, roots: Path) -> str:
    lines = [
        "python - <<'END'",
        "import grpc, numpy as np, tensorflow as tf",
        "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
        f'credentials = grpc.ssl_channel_credentials(open({str(roots)!r}, "rb").read())',
        f'stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.secure_channel("{stage.server}", credentials))',
        "request = predict_pb2.PredictRequest()",
        f'request.model_spec.name = "{stage.model}"',
    ]
    if name != DEFAULT_SIGNATURE:
        lines.append(f"request.model_spec.signature_name = {name!r}")
    for key, code in _arrays(signature).items():
        lines.append(f"request.inputs[{key!r}].CopyFrom(tf.make_tensor_proto({code}))")
    return "\n".join((*lines, "print(stub.Predict(request, 30))", "END"))
