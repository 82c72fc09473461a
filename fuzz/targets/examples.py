"""tf.Example: `j` + the JSON of a classify or regress body, else a serialized example; read as every type of feature."""

from tacit.errors import RequestError
from tacit.serving.tfs.examples import parse_json_examples
from tacit.serving.tfs.values import parse_json
from tacit.wire.examples import Feature, parse_examples
from tacit.wire.tensor import ELEMENT_TYPES

REFUSALS = (RequestError,)
LIMIT = 4096  # bytes
_SHAPES = ((), (1,), (-1,), (2, -1))


def check(data: bytes) -> None:
    if data[:1] == b"j":
        document = parse_json(data[1:])
        if not isinstance(document, dict):
            return  # the router's own refusal
        rows = parse_json_examples(document)
        assert rows
    else:
        rows = [data[1:]]
    for dtype in ELEMENT_TYPES:
        shape = _SHAPES[dtype % len(_SHAPES)]
        try:
            found = parse_examples(rows, {"x": Feature(dtype, shape)})
        except RequestError:
            continue
        assert found["x"].shape[0] == len(rows)
        assert found["x"].array.dtype == ELEMENT_TYPES[dtype].memory
