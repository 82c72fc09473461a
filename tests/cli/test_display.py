"""`tacit manifest get --display-update`: defaults, order, lists on one line, and versions from the update log."""

import json

import pytest

from tacit.cli.manifest.display import show_updated
from tacit.errors import InputError

RAISED = '{"time":"T","update":"SecurityVersion increased","user":"u","package":"p","new version":%d}'
WHOLE = '{"time":"T","update":"Complete Manifest updated","manifestFingerprint":"00"}'


def show(manifest: object, log: tuple[str, ...] = ()) -> str:
    return show_updated(json.dumps(manifest).encode(), log)


def test_a_small_manifest_is_shown_with_its_defaults() -> None:
    assert show({"Packages": {"p": {"SecurityVersion": 1}}, "Marbles": {"m": {"Package": "p", "Parameters": {}}}}) == (
        "{\n"
        '    "Config": {\n'
        '        "RecoveryThreshold": 0,\n'
        '        "RotateRootSecret": false,\n'
        '        "SealMode": "",\n'
        '        "UpdateThreshold": 0\n'
        "    },\n"
        '    "Marbles": {\n'
        '        "m": {\n'
        '            "DisableSecretBinding": false,\n'
        '            "MaxActivations": 0,\n'
        '            "Package": "p"\n'
        "        }\n"
        "    },\n"
        '    "Packages": {\n'
        '        "p": {\n'
        '            "Debug": false,\n'
        '            "SecurityVersion": 1,\n'
        '            "SignerID": "",\n'
        '            "UniqueID": ""\n'
        "        }\n"
        "    }\n"
        "}\n"
    )


def test_security_versions_are_those_that_updates_raised() -> None:
    manifest = {"Packages": {"p": {"SecurityVersion": 1}, "q": {"SecurityVersion": 2}}}
    shown = json.loads(show(manifest, (RAISED % 3, RAISED % 4, "no JSON", "5")))
    assert [shown["Packages"][name]["SecurityVersion"] for name in "pq"] == [4, 2]


def test_an_update_of_the_whole_manifest_brings_its_own_versions() -> None:
    manifest = {"Packages": {"p": {"SecurityVersion": 1}}}
    assert json.loads(show(manifest, (RAISED % 9, WHOLE)))["Packages"]["p"]["SecurityVersion"] == 1
    assert json.loads(show(manifest, (RAISED % 9, WHOLE, RAISED % 5)))["Packages"]["p"]["SecurityVersion"] == 5


def test_null_and_empty_objects_are_left_out_and_empty_lists_stay() -> None:
    shown = json.loads(show({"TLS": None, "Roles": {}, "Users": {"u": {"Roles": []}}}))
    assert shown == {**json.loads(show({})), "Users": {"u": {"Certificate": "", "Roles": []}}}


@pytest.mark.parametrize(("count", "lines"), [(1, 1), (11, 1), (12, 14)])
def test_a_list_stands_on_one_line_while_it_fits(count: int, lines: int) -> None:
    text = show({"Users": {"u": {"Roles": ["a"] * count}}})
    begin = text.index('"Roles"')
    assert text[begin : text.index("]", begin)].count("\n") + 1 == lines


def test_a_list_of_objects_never_does() -> None:
    assert '"Incoming": [\n' in show({"TLS": {"t": {"Incoming": [{"Port": "1"}]}}})


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff"])
def test_what_is_no_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(InputError, match="no JSON"):
        show_updated(raw, ())


def test_keys_have_their_proper_names_and_unknown_ones_are_gone() -> None:
    shown = json.loads(show({"packages": {"p": {"debug": True, "zork": 1}}, "Zork": {}, "Packages": {"q": {}}}))
    assert shown["Packages"] == {
        "p": {"Debug": True, "SignerID": "", "UniqueID": ""},
        "q": {"Debug": False, "SignerID": "", "UniqueID": ""},
    }
    assert shown.keys() == {"Config", "Packages"}


def test_a_file_is_shown_as_what_its_text_stands_for() -> None:
    files = {"a": "text", "b": {"data": "aGk=", "ENCODING": "base64"}, "c": {"NoTemplates": True}}
    marble = {"Package": "p", "Parameters": {"Files": files}}
    assert json.loads(show({"Marbles": {"m": marble}}))["Marbles"]["m"]["Parameters"]["Files"] == {
        "a": {"Data": "text", "Encoding": "string", "NoTemplates": False},
        "b": {"Data": "aGk=", "Encoding": "base64", "NoTemplates": False},
        "c": {"Data": "", "Encoding": "string", "NoTemplates": True},
    }


def test_an_entry_of_transparent_tls_has_all_its_fields() -> None:
    shown = json.loads(show({"TLS": {"t": {"Outgoing": [{"Port": "1"}], "Incoming": []}, "u": {}}}))
    assert shown["TLS"] == {
        "t": {"Outgoing": [{"Addr": "", "Cert": "", "DisableClientAuth": False, "Port": "1"}], "Incoming": []}
    }


def test_extensions_are_shown_where_they_were_given() -> None:
    shown = json.loads(show({"Marbles": {"m": {"AllowedNames": ["a"]}, "n": {}}}))
    assert [entry.get("AllowedNames") for entry in shown["Marbles"].values()] == [["a"], None]


def test_signs_of_html_are_escaped_as_in_gos_json() -> None:
    assert '"Argv": ["a \\u0026\\u0026 b \\u003c c"]' in show(
        {"Marbles": {"m": {"Parameters": {"Argv": ["a && b < c"]}}}}
    )
