"""A SavedModel that reads examples: what is left without the reading is a SavedModel again."""

from tacit.errors import ModelFormatError
from tacit.graph.declared import read_signatures
from tacit.graph.parsing import take_out_parsing

REFUSALS = (ModelFormatError,)
LIMIT = 16384  # bytes


def check(data: bytes) -> None:
    declared = read_signatures(data)
    found = take_out_parsing(data, declared)
    if found is None:
        return
    again = read_signatures(found.content)
    assert set(again) == {"serving_default"}
    assert set(found.examples) <= set(declared)
    for example in found.examples.values():
        assert set(example.features) == set(again["serving_default"].inputs)
