"""How to talk to what `tacit up` started: examples that work when pasted."""

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from tacit.cli.up.stage import Stage
from tacit.client.inference import ServingClient, Signature
from tacit.client.session import DEFAULT_SIGNATURE
from tacit.errors import PeerError

# TensorFlow's type numbers whose JSON value is a whole number; the rest of the numeric ones take a decimal.
_WHOLE = frozenset({3, 4, 5, 6, 9, 17, 22, 23})
_BOOL, _STRING = 10, 7
_NUMPY = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    19: "float16",
}


def describe(stage: Stage, roots: Path) -> str:
    """A Python, a curl and a TensorFlow Serving example for the model that is being served.

    Inputs are zeros of the model's own shapes, free sizes as 1. Raises: ConnectError.
    """
    with ServingClient(stage.server, roots_pem=roots.read_bytes()) as client:
        signatures = client.signatures(stage.model)
    name = DEFAULT_SIGNATURE if DEFAULT_SIGNATURE in signatures else min(signatures, default=DEFAULT_SIGNATURE)
    if name not in signatures:
        raise PeerError(f"the server at {stage.server} tells no signature of {stage.model}, so nothing can be asked")
    signature = signatures[name]
    return "\n".join(
        (
            "[5/5] ask it:",
            "",
            "# Python, with tacit: the coordinator is checked first",
            _python(stage, name, signature),
            "",
            "# curl: trusts the certificate that the checked coordinator gave",
            _curl(stage, name, signature, roots),
            "",
            "# TensorFlow Serving's own Python stubs (pip install tensorflow-serving-api)",
            _tensorflow(stage, name, signature, roots),
            "",
        )
    )


def _sizes(shape: tuple[int, ...] | None) -> tuple[int, ...]:
    return tuple(max(size, 1) for size in shape or ())


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
