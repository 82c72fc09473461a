"""What `tacit predict` reads as input, and what it refuses in one line."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tacit.cli.inference.arrays import as_jsonable, load_arrays
from tacit.cli.inference.predict import load_credential
from tacit.errors import InputError, UsageError
from tacit.pki import issue_self_signed


def test_an_array_of_numpys_is_read_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    found = load_arrays(tmp_path / "x.npy")
    assert found.dtype == np.int16
    assert found.shape == (2, 3)


def test_several_arrays_go_by_the_names_of_the_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.zeros(2), b=np.ones(3))
    assert sorted(load_arrays(tmp_path / "x.npz")) == ["a", "b"]


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], {"a": [1.5], "b": ["text"]}, 3, [True, False]])
def test_json_keeps_its_lists_for_the_type_that_the_model_declares(tmp_path: Path, value: object) -> None:
    (tmp_path / "x.json").write_text(json.dumps(value))
    assert load_arrays(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[[1, 2], [3]]", "its rows differ in length"),
        ('{"a": [1, [2]]}', "a is no array"),
        ('{"\\ud800": [1]}', "is no text"),
        ("null", "holds null"),
        ('[{"b": 1}]', "holds null, an object"),
        ("[1e400000, 9" + "9" * 400 + "]", "too large a number"),
    ],
)
def test_json_that_is_no_array_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        load_arrays(tmp_path / "x.json")


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_what_json_has_no_number_for_is_printed_by_its_name(kind: type) -> None:
    answer = np.array([[np.nan, 1.5], [np.inf, -np.inf]], kind)
    assert json.dumps(as_jsonable(answer), allow_nan=False) == '[["NaN", 1.5], ["Infinity", "-Infinity"]]'
    assert json.dumps(as_jsonable(answer[0, 0]), allow_nan=False) == '"NaN"'
    assert as_jsonable(np.array([b"NaN"], object)) == ["NaN"]


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"code": "runs when loaded"}], dtype=object), allow_pickle=True)
    return out.getvalue()


def cut() -> bytes:
    out = io.BytesIO()
    np.save(out, np.zeros(100))
    return out.getvalue()[:200]


@pytest.mark.parametrize(
    "content", [b"text", b"\x93NUMPY", b"PK\x03\x04" + b"x" * 40, b"\x93NUMPY\x01\x00\x06\x00{1: 2", cut(), pickled()]
)
def test_a_file_that_holds_no_array_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InputError, match="holds no numpy array") as refusal:
        load_arrays(tmp_path / "x.npy")
    assert "\n" not in str(refusal.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_arrays(tmp_path / "x.npy")


def test_what_a_client_shows_comes_from_its_files(tmp_path: Path) -> None:
    pair = issue_self_signed(["ann"], common_name="ann", now=datetime(2026, 1, 1, tzinfo=UTC))
    for name, content in (("crt", pair.certificate_pem), ("key", pair.key_pem), ("token", b"the token\n")):
        (tmp_path / name).write_bytes(content)
    found = load_credential(tmp_path / "crt", tmp_path / "key", tmp_path / "token")
    assert found is not None
    assert found.certificate is not None
    assert found.certificate.certificate_pem == pair.certificate_pem
    assert found.token == "the token"
    assert "the token" not in repr(found)
    assert load_credential(None, None, None) is None


def test_a_certificate_without_its_key_is_no_credential(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--cert and --key belong together"):
        load_credential(tmp_path / "crt", None, None)
