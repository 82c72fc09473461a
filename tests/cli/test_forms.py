"""`--format json`: every verb that reads something gives JSON on standard output, and nothing else there."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from fakes.command_line import run_main
from fakes.place import Place, make_place
from tacit.cli import app as command_line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    yield from make_place(tmp_path_factory.mktemp("cli"))


def commands(group: Any = None, path: str = "") -> Iterator[tuple[str, Any]]:
    group = group or typer.main.get_command(command_line.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path}{name} ")
        else:
            yield path + name, command


# Verbs that change or make something, start something, or whose output is JSON anyway.
WITHOUT_A_FORM = {
    *("up", "bench", "predict", "completion", "manifest set", "manifest sign", "manifest update cancel", "secret set"),
    *("recover-with-signature encrypt-secret", "recover-with-signature sign-secret"),
    *("platform init", "platform export", "platform import"),
    *("install", "uninstall", "namespace add", "namespace remove", "model push"),
    *(f"model {verb}" for verb in ("download", "make", "convert", "encrypt", "decrypt", "rekey")),
}


def test_every_verb_that_reads_has_a_form_for_programs() -> None:
    forms = {
        name
        for name, command in commands()
        for param in command.params
        if "--format" in param.opts and "json" in (param.metavar or "")
    }
    assert forms | WITHOUT_A_FORM == {name for name, _ in commands()}
    assert not forms & WITHOUT_A_FORM


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_output_is_a_synonym_where_it_names_no_file(name: str) -> None:
    command = dict(commands())[name]
    named = [
        set(param.opts) for param in command.params if "--format" in param.opts and "json" in (param.metavar or "")
    ]
    files = any("-o" in param.opts for param in command.params)
    for names in named:
        assert ("--output" in names) is not files


READINGS = [
    ("status {a}", {"StatusCode", "StatusMessage", "State"}),
    ("status {u} -i", {"StatusCode", "StatusMessage", "State"}),
    ("trust", {"{a}"}),
    ("manifest get {a}", {"ManifestSignature", "Manifest"}),
    ("manifest get {u} -i -u", {"ManifestSignature", "Manifest"}),
    ("manifest verify manifest.json {a}", {"ManifestSignature", "TEE"}),
    ("manifest verify manifest.json {u} -i", {"ManifestSignature", "TEE"}),
    ("manifest signature manifest.json", {"ManifestSignature"}),
    ("manifest check manifest.json", {"defects", "warnings"}),
    ("manifest log {a}", {"UpdateLog"}),
    ("manifest log {u} -i", {"UpdateLog"}),
    ("certificate root {a}", {"File", "PEM"}),
    ("certificate intermediate {u} -i", {"File", "PEM"}),
    ("certificate chain {a} -o c.pem", {"File", "PEM"}),
    ("secret get token made {a} -c owner.crt -k owner.key", {"token", "made"}),
    ("secret get token {u} -i -c owner.crt -k owner.key", {"token"}),
    ("package-info coordinator", {"TEE", "UniqueID", "SignerID", "ProductID", "SecurityVersion"}),
    ("platform show", {"TEE", "Name", "Folder", "Root"}),
    ("version", {"Version", "Commit", "Coordinator"}),
]


@pytest.mark.parametrize(("line", "keys"), READINGS, ids=[line for line, _ in READINGS])
def test_standard_output_is_json_and_nothing_else(place: Place, line: str, keys: set[str]) -> None:
    words = line.format(a=place.attested, u=place.unattested).split()
    done = run_main(*words, "--format", "json")
    assert done.code == 0, done.err
    assert set(json.loads(done.out)) == {key.format(a=place.attested) for key in keys}


def test_the_manifest_as_json_holds_its_very_text(place: Place) -> None:
    found = json.loads(run_main("manifest", "get", place.attested, "--format", "json").out)
    assert hashlib.sha256(found["Manifest"].encode()).hexdigest() == found["ManifestSignature"]


def test_a_file_gets_the_form_too(place: Place) -> None:
    run_main("manifest", "log", place.attested, "--format", "json", "-o", "log.json")
    assert json.loads((place.folder / "log.json").read_text())["UpdateLog"][0]["update"] == "Initial manifest set"


def test_what_is_known_is_listed_for_programs(place: Place) -> None:
    run_main("status", place.attested)
    found = json.loads(run_main("trust", "--output", "json").out)[place.attested]
    assert found["TEE"] == "simulated"
    assert found["ManifestSignature"] == hashlib.sha256(place.manifest.read_bytes()).hexdigest()
    assert len(found["Root"]) == 64


@pytest.mark.parametrize("verb", ["status h", "manifest get h", "certificate root h", "trust", "version"])
def test_an_unknown_form_is_refused_before_anything_is_asked(verb: str) -> None:
    done = run_main(*verb.split(), "--format", "xml")
    assert done.code in (1, 2)
    assert "'xml' is unknown; expected text or json" in done.err


def test_a_refusal_is_a_line_on_standard_error_in_this_form_too(place: Place) -> None:
    done = run_main("manifest", "verify", "0" * 64, place.attested, "--format", "json")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("Error: MarbleRun deployment is using a different manifest")
