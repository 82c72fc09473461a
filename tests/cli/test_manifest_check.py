"""`tacit manifest check`: every defect at once, each with its path and line; and hostile files."""

import json
from pathlib import Path

import pytest

from fakes.command_line import run_main

JSON = """{
  "Packages": {"p": {"Uniqueid": "zz"}},
  "Marbles": {
    "m": {"Package": "nope", "MaxActivation": 3},
    "n": {"Package": "p",
          "Models": ["none"],
          "Parameters": {"Env": {"A": "{{ hex .Secrets.nope }}"}}}
  },
  "Secrets": {"k": {"Type": "symmetric-key", "Size": "12"}}
}
"""
YAML = """# a comment
Packages:
  p: {UniqueID: zz}
  p: {SignerID: zz}
Marbles:
  m:
    Package: nope
    MaxActivation: 3
"""


def lines_of(path: Path) -> list[str]:
    done = run_main("manifest", "check", path)
    assert done.code == 1
    return [line.strip() for line in done.err.splitlines() if line.startswith("  ")]


def test_every_defect_comes_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(JSON)
    assert [line.split(", column")[0] for line in lines_of(path)] == [
        "Packages.p.Uniqueid: line 2",
        "Packages.p.UniqueID: line 2",
        "Marbles.m: line 4",
        "Marbles.m.MaxActivation: line 4",
        "Marbles.n.Models: line 6",
        "Marbles.n.Parameters.Env.A: line 7",
        "Secrets.k.Size: line 9",
    ]


def test_an_unknown_key_comes_with_the_nearest_known_one(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(JSON)
    assert any(line.endswith('did you mean "MaxActivations"?') for line in lines_of(path))


def test_in_yaml_the_lines_are_those_of_the_file_and_a_repeated_key_is_a_defect(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(YAML)
    assert [line.split(", column")[0] for line in lines_of(path)] == [
        "Packages.p: line 4",
        "Packages.p.SignerID: line 4",
        "Marbles.m: line 6",
        "Marbles.m.MaxActivation: line 8",
    ]


def test_for_programs_each_defect_has_its_path_and_place(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(JSON)
    done = run_main_json(path)
    assert done["defects"][0] == {
        "path": "Packages.p.Uniqueid",
        "line": 2,
        "column": 22,
        "message": 'key "Uniqueid" read as "UniqueID"',
    }
    assert len(done["defects"]) == 7


def run_main_json(path: Path) -> dict[str, list[dict[str, object]]]:
    import contextlib
    import io

    from tacit.cli.app import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["manifest", "check", str(path), "--output", "json"]) == 1
    found: dict[str, list[dict[str, object]]] = json.loads(out.getvalue())
    return found


def test_more_defects_than_a_screen_holds_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"Marbles": {f"m{i}": {"Package": "p"} for i in range(100)}}))
    lines = lines_of(path)
    assert len(lines) == 51
    assert lines[-1].startswith("and 51 more; --output json lists them all")


def test_names_do_not_steer_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(
        json.dumps({"Packages": {"p": {}}, "Marbles": {"\x1b[2J\nError: x": {"Package": "p", "TLS": ["t"]}}})
    )
    done = run_main("manifest", "check", path)
    assert "\x1b" not in done.err
    assert "\\x1b[2J\\nError: x" in done.err


def aliases(depth: int) -> str:
    """A few lines that are as many values as there are atoms, once they are written out."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.json", b"", "is empty"),
        ("m.yaml", b"\n\n", "is empty"),
        ("m.json", b"\xff\xfe", "expected a mapping"),
        ("m.json", b"[" * 100_000, "exceeded max depth"),
        ("m.yaml", b"[" * 3000, "m.yaml"),
        ("m.yaml", aliases(20).encode(), "aliases written out"),
        ("m.yaml", b"a: &a [*a]", "aliases written out"),
        ("m.yaml", b"a: !!python/object/apply:os.system [true]", "means nothing in a manifest"),
        ("m.json", b'"text"', "found a string, expected an object"),
        ("m.json", b"{} {}", "after top-level value"),
        ("m.json", b" " * (5 << 20) + b"{}", "at most 4194304 are read"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "lint"])
def test_a_hostile_file_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, reason: str, verb: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    done = run_main("manifest", verb, path)
    assert done.code == 1
    if verb == "check":
        assert reason in done.err


def test_diff_says_which_of_two_files_cannot_be_read(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"Packages": {}}')
    bad.write_text('{"Packages": 5}')
    for words in ((good, bad), (bad, good)):
        done = run_main("manifest", "diff", *words)
        assert done.code == 1
        assert f"every defect with its line: tacit manifest check {bad}" in done.err


@pytest.mark.parametrize(("limit", "code"), [(None, 0), ("gain", 1), ("loss", 1)])
def test_diff_fails_where_it_was_asked_to(tmp_path: Path, limit: str | None, code: int) -> None:
    from tacit.cli.app import main

    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text('{"Packages": {}}')
    new.write_text('{"Packages": {"p": {"Debug": true}}}')
    assert main(["manifest", "diff", str(old), str(new), *(() if limit is None else ("--fail-on", limit))]) == code
    assert main(["manifest", "diff", str(old), str(old), "--fail-on", "loss"]) == 0


def test_lint_tells_the_same_weakness_of_many_marbles_once(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    package = {"UniqueID": "ab" * 32}
    path.write_text(json.dumps({"Packages": {"p": package}, "Marbles": {f"m{i}": {"Package": "p"} for i in range(9)}}))
    done = run_main("manifest", "lint", path)
    assert "    also: Marbles.m1.AllowedNames, Marbles.m2.AllowedNames, Marbles.m3.AllowedNames, and 5 more" in done.out
    assert done.out.count("medium: Marbles.") <= 2
    found = json.loads(run_main("manifest", "lint", path, "--output", "json").out)
    assert sum(one["path"].endswith("AllowedNames") for one in found) == 9
