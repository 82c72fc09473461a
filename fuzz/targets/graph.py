"""TensorFlow's files: `s` + a SavedModel, else a frozen graph, which is wrapped into a SavedModel where that can be done."""

from tacit.errors import ModelFormatError
from tacit.graph import build_saved_model, parse_graph, parse_saved_model, tensor_spec

REFUSALS = (ModelFormatError,)
LIMIT = 16384  # bytes


def check(data: bytes) -> None:
    if data[:1] == b"s":
        parse_saved_model(data[1:])
        return
    graph = parse_graph(data[1:])
    outputs, inputs = graph.ends()[:4], graph.placeholders()[:4]
    for name in (*outputs, *inputs):
        try:
            tensor_spec(graph, name)
        except ModelFormatError:
            continue
    raw = build_saved_model(graph, inputs=inputs, outputs=outputs)
    signature = parse_saved_model(raw)["serving_default"]
    assert len(signature.inputs) == len(inputs)
    assert graph.raw in raw
