"""Reading strictly: every defect at once, each with its place."""

import pytest

from fakes.manifests import MINIMAL, raw
from tacit.errors import ManifestError
from tacit.manifest import parse_manifest, parse_manifest_strict

MANY = b"""{
  "Packages": {
    "server": {
      "UniqueId": "6b",
      "ProductID": "x",
      "ProductID": 1.5
    }
  },
  "Marbles": {
    "m\xc3\xbc": {"Pakage": "server", "Parameters": {"Files": {"/a b": null}}}
  },
  "Secrets": {"k": {"Type": "symmetric-key", "Private": "c2VjcmV0"}}
}
"""


def defects(text: bytes) -> list[tuple[str, int, int]]:
    with pytest.raises(ManifestError) as caught:
        parse_manifest_strict(text)
    return [(one.path, one.line, one.column) for one in caught.value.defects]


def test_what_is_strictly_right_is_read_alike_by_both() -> None:
    assert parse_manifest_strict(raw(MINIMAL)) == parse_manifest(raw(MINIMAL)).manifest


def test_every_defect_is_listed_with_path_line_and_column() -> None:
    assert defects(MANY) == [
        ("Packages.server.UniqueId", 4, 7),
        ("Packages.server.UniqueID", 4, 19),
        ("Packages.server.ProductID", 5, 20),
        ("Packages.server.ProductID", 6, 7),
        ("Packages.server.ProductID", 6, 20),
        ('Marbles["mü"].Pakage', 10, 12),
        ('Marbles["mü"].Parameters.Files["/a b"]', 10, 65),
        ("Secrets.k.Private", 12, 57),
    ]


def test_the_message_holds_every_defect() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest_strict(MANY)
    message = str(caught.value)
    assert message.startswith("manifest has 8 defects:\n  Packages.server.UniqueId: line 4, column 7: ")
    assert 'did you mean "Package"?' in message
    assert "c2VjcmV0" not in message


def test_a_syntax_error_has_its_place() -> None:
    assert defects(b'{\n  "a": 1,\n}') == [("$", 3, 1)]


def test_many_defects_are_counted_and_not_all_shown() -> None:
    with pytest.raises(ManifestError) as caught:
        parse_manifest_strict(raw({f"x{number}": 1 for number in range(80)}))
    assert len(caught.value.defects) == 80
    assert "and 30 more" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b'{"packages":{}}',
        b'{"Unknown":1}',
        b'{"Packages":{},"Packages":{}}',
        b'{"Packages":{"a":{},"a":{}}}',
        b'{"Packages":null}',
        b'{"RecoveryKeys":{"a":"\xff"}}',
        b'{"RecoveryKeys":{"\\ud800":"x"}}',
        b'{"Packages":{"a":{"UniqueID":""}}}',
        b'{"Packages":{"a":{"UniqueID":"6b"}}}',
        b'{"Secrets":{"a":{"Cert":{"NotBefore":"2020-01-01T00:00:00Z"}}}}',
        b'{"Secrets":{"a":{"Public":"AA=="}}}',
        b"{} {}",
    ],
)
def test_t18_what_readers_could_understand_differently_is_refused(text: bytes) -> None:
    assert len(defects(text)) == 1
