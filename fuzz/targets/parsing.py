"""A SavedModel that reads examples, or has several signatures: what is made of it is a SavedModel again."""

from tacit.errors import ModelFormatError
from tacit.graph.declared import merge_signatures, read_signatures
from tacit.graph.parsing import take_out_parsing
from tacit.graph.twins import find_twins

REFUSALS = (ModelFormatError,)
LIMIT = 24576  # bytes


def check(data: bytes) -> None:
    declared = read_signatures(data)
    twins = find_twins(data, declared)
    assert set(twins) | set(twins.values()) <= set(declared)
    assert not set(twins) & set(twins.values())
    assert set(read_signatures(merge_signatures(data, declared))) == {"serving_default"}
    found = take_out_parsing(data, declared)
    if found is None:
        return
    again = read_signatures(found.content)
    assert set(again) == {"serving_default"}
    assert set(found.examples) <= set(declared)
    for example in found.examples.values():
        assert set(example.features) == set(again["serving_default"].inputs)
