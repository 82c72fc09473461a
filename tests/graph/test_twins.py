"""Signatures that are the same under two names, and all signatures as one."""

from pathlib import Path

import pytest

from fakes.examples import DENSE, OF_EXAMPLES, saved, sums
from tacit.errors import ModelFormatError
from tacit.graph.declared import merge_signatures, read_signatures
from tacit.graph.twins import find_twins

SAVED = (Path(__file__).parents[1] / "vectors" / "serving" / "signatures" / "saved_model.pb").read_bytes()


def twins(content: bytes) -> dict[str, str]:
    declared = read_signatures(content)
    return dict(find_twins(content, {key: declared[key] for key in sorted(declared, reverse=True)}))


def test_a_function_that_two_signatures_call_makes_them_twins() -> None:
    assert twins(SAVED) == {"again": "serving_default"}


def bent(old: bytes, new: bytes, place: int) -> bytes:
    """The model with one occurrence of something exchanged, or with all (-1)."""
    parts = SAVED.split(old)
    assert len(parts) > 2
    if place < 0:
        return new.join(parts)
    return old.join(parts[: place + 1]) + new + old.join(parts[place + 1 :])


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        (b"__inference_line_", b"__inference_none_", 2),  # one of the two calls another function
        (b"again_x", b"again_z", 1),  # it is fed by something that is no input of the signature
        (b"\x12\x08Identity", b"\x12\x08Negative", -1),  # the function does more than call another
        (
            b"__inference_signature_wrapper_line_",
            b"__inference_signature_wrapper_none_",
            0,
        ),  # nobody knows the function
    ],
)
def test_what_differs_somewhere_is_no_twin(old: bytes, new: bytes, place: int) -> None:
    assert twins(bent(old, new, place)) == {}


def test_signatures_that_call_no_function_have_no_twin() -> None:
    assert twins(saved(sums(second=True), serving_default=DENSE, other=DENSE, regress=OF_EXAMPLES)) == {}


def test_signatures_become_one_with_the_tensors_own_names() -> None:
    declared = {key: one for key, one in read_signatures(SAVED).items() if one.inputs}
    content = merge_signatures(SAVED, declared)
    (merged,) = read_signatures(content).values()
    inputs = {spec.name: spec for one in declared.values() for spec in one.inputs.values()}
    outputs = {spec.name: spec for one in declared.values() for spec in one.outputs.values()}
    assert (dict(merged.inputs), dict(merged.outputs)) == (inputs, outputs)
    assert len(inputs) == len(outputs) == 5


@pytest.mark.parametrize("make", [merge_signatures, find_twins])
def test_what_is_cut_short_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(ModelFormatError):
        make(SAVED[: len(SAVED) // 2], read_signatures(SAVED))
