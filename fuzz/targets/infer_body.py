"""The HTTP body of an inference. The first byte is the length of its JSON, in sixteenths; what was read can be answered."""

from tacit.errors import RequestError
from tacit.graph.signature import Signature, TensorSpec
from tacit.serving.oip.bodies import decode, raw_question, read_question, unpack, write_answer
from tacit.serving.oip.question import Found, classify
from tacit.serving.plane import Selector
from tacit.wire.tensor import ELEMENT_TYPES

REFUSALS = (RequestError,)
LIMIT = 4096  # bytes
_TYPES = sorted(ELEMENT_TYPES)


def check(data: bytes) -> None:
    chosen, body = (data[0] if data else 0), data[1:]
    selector = Selector("m")
    if chosen == 255:
        unpack(body, "gzip", limit=LIMIT)
        return
    if chosen >= 128:
        spec = TensorSpec("x:0", _TYPES[chosen % len(_TYPES)], (-1, 1 + chosen % 3))
        asked, form = raw_question(selector, body, Signature({"x": spec}, {}))
    else:
        header = None if chosen == 0 else str(len(body) * min(chosen, 16) // 16)
        asked, form = read_question(selector, body, header)
    outputs = {name: decode(name, given) for name, given in asked.inputs.items()}
    for wanted in asked.wanted:
        if wanted.classes and wanted.name in outputs:
            outputs[wanted.name] = classify(outputs[wanted.name], wanted.classes, name=wanted.name)
    text, headers = write_answer(Found("m", 1, outputs), form)
    if "inference-header-content-length" in headers:
        assert int(headers["inference-header-content-length"]) <= len(text)
