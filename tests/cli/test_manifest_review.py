"""`tacit manifest lint` and `tacit manifest diff`, and what the documentation says they print."""

import json
import re
from pathlib import Path

import pytest

from fakes.command_line import run_app
from fakes.manifests import MINIMAL, minimal, raw
from tacit.cli.manifest import app
from tacit.cli.up.ports import Ports
from tacit.cli.up.stage import Stage
from tacit.evidence import Tee
from tacit.evidence.claims import PackageInfo
from tacit.manifest import parse_manifest_strict
from tacit.manifest.review import Severity, lint_manifest

TEXT = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()


def block(kind: str) -> str:
    found = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.fixture
def weak(tmp_path: Path) -> Path:
    path = tmp_path / "weak.json"
    path.write_text(block("json weak"))
    return path


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.json"
    path.write_bytes(raw(MINIMAL))
    return path


def test_lint_prints_what_the_documentation_shows(weak: Path) -> None:
    done = run_app(app, "lint", weak)
    assert done.out == block("text lint")
    assert done.code == 1


def test_diff_prints_what_the_documentation_shows(weak: Path, tmp_path: Path) -> None:
    new = tmp_path / "next.json"
    new.write_text(block("json next"))
    done = run_app(app, "diff", weak, new)
    assert done.out == block("text diff")
    assert done.code == 0


def test_a_manifest_that_a_coordinator_refuses_fails_also_without_a_finding(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.json"
    nothing.write_text("{}")
    for form in ("text", "json"):
        done = run_app(app, "lint", nothing, "--output", form)
        assert done.code == 1
        assert "a coordinator refuses this manifest" in done.err


def test_lint_as_json_has_the_same_findings(weak: Path) -> None:
    done = run_app(app, "lint", weak, "--output", "json")
    found = json.loads(done.out)
    assert [one["severity"] for one in found] == ["high", "high", "medium", "medium"]
    assert set(found[0]) == {"severity", "path", "what", "why", "better"}
    assert done.code == 1


def test_diff_as_json_has_effect_path_and_text(weak: Path, plain: Path) -> None:
    found = json.loads(run_app(app, "diff", plain, weak, "--output", "json").out)
    assert set(found[0]) == {"effect", "path", "text"}
    assert found[0]["effect"] == "gain"


@pytest.mark.parametrize(("fail_on", "code"), [("high", 0), ("medium", 1), ("low", 1)])
def test_the_exit_code_follows_the_weight_that_was_asked_for(plain: Path, fail_on: str, code: int) -> None:
    assert run_app(app, "lint", plain, "--fail-on", fail_on).code == code


@pytest.mark.parametrize(
    "words",
    [
        ("lint", "FILE", "--fail-on", "worst"),
        ("lint", "FILE", "--output", "xml"),
        ("diff", "FILE", "FILE", "--output", "xml"),
    ],
)
def test_unknown_words_are_refused_by_name(plain: Path, words: tuple[str, ...]) -> None:
    done = run_app(app, *(plain if word == "FILE" else word for word in words))
    assert done.code == 2
    assert words[-1] in done.err


def test_equal_manifests_say_so(plain: Path) -> None:
    done = run_app(app, "diff", plain, plain)
    assert done.lines == ["Both manifests allow the same."]
    assert done.code == 0


def test_a_manifest_that_a_coordinator_refuses_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(raw(minimal(Marbles={})))
    assert "tacit manifest check" in run_app(app, "lint", path).err


def test_what_is_no_manifest_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("{")
    assert "m.json is no JSON: line 1, column 2: unexpected end" in run_app(app, "lint", path).err


def test_names_of_the_manifest_do_not_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_bytes(raw(minimal(Marbles={"m\n0 high\x1b[2J": {"Package": "server"}})))
    done = run_app(app, "lint", path)
    assert "\x1b" not in done.out
    assert [line for line in done.lines if line.startswith("0 high")] == [done.lines[-1]]


def test_the_manifest_of_up_has_no_high_finding(tmp_path: Path) -> None:
    stage = Stage(tmp_path, tmp_path, "digits", tmp_path / "digits.capsule", Ports(1, 2, 3, 4))
    package = PackageInfo(Tee.SIMULATED, b"u" * 32, b"s" * 32, 2, 1, debug=False)
    manifest = parse_manifest_strict(
        stage.manifest(package, model_id=b"m" * 32, version=1, owner_pem="PEM", reader_pem="REM")
    )
    assert Severity.HIGH not in {one.severity for one in lint_manifest(manifest)}


def test_yaml_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("Packages: {server: {Debug: true}}\nMarbles: {}\n")
    assert "high: Packages.server.Debug: Debug is true" in run_app(app, "lint", path).out
