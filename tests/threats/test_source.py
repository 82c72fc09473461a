"""What the source itself has to show: comparisons, labels, locks, and Python's own traps."""

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "tacit"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if PACKAGE / "wire" / "pb" not in path.parents)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


# ---- T55

SECRET_NAMES = {"share", "secret", "private", "tag", "tags", "mac", "commitment", "check", "password", "token", "key"}
PUBLIC = {
    # What has such a name and is no secret.
    "coordinator/core/vouching.py: cached.key != key": "the root certificate that a cached status was signed for",
    "coordinator/core/vouching.py: cached.key != root": "the root certificate that a cached quote was made for",
    "cli/inference/compare.py: (key is not None) != (model.suffix == '.capsule')": "whether a key was named at all",
    "graph/infer.py: node.attr[key].type != tf.DT_INVALID": "the name of an attribute",
    "evidence/anchor/der.py: self.tag != tag": "a type number of ASN.1",
    "evidence/anchor/strict_json.py: other == key": "a name in a JSON object",
    "evidence/claims.py: one.number != check.number": "the number of a step",
    "evidence/snp/certificates.py: flags[0].tag == BOOLEAN": "a type number of ASN.1",
    "evidence/snp/certificates.py: one.tag == _EXTENSIONS": "a type number of ASN.1",
    "evidence/snp/certificates.py: parts[0].tag != _VERSION": "a type number of ASN.1",
    "evidence/verify/ratls.py: wrapped.tag != _TAG": "a number of CBOR",
    "manifest/codec/decode.py: name != member.key": "a name in a JSON object",
    "manifest/review/defects.py: one.key == step": "a name in a JSON object",
    "manifest/review/diff.py: before[secret] != after[secret]": "who gets a secret, by the secret's name",
    "manifest/review/diff.py: before.key != after.key": "the name of a key in a manifest",
    "manifest/yaml_text.py: key.tag == _PLAIN": "a type of YAML",
    "manifest/yaml_text.py: node.tag == _PLAIN": "a type of YAML",
    "manifest/yaml_text.py: node.tag == f'{_STANDARD}binary'": "a type of YAML",
    "serving/engines/openvino/ports.py: key == SERVING_DEFAULT": "the name of a signature",
    "serving/engines/openvino/reading.py: key == SERVING_DEFAULT": "the name of a signature",
    "serving/loading/warmup.py: key != SERVING_DEFAULT": "the name of a signature",
}


def names_of(node: ast.expr) -> set[str]:
    """The names that an operand ends in: `a.b.key` is `key`; what a call gives is not its argument."""
    return {
        found
        for one in ast.walk(node)
        if not isinstance(one, ast.Call) and (found := getattr(one, "attr", getattr(one, "id", None)))
    }


def test_t55_no_secret_is_compared_with_an_operator() -> None:
    found = set()
    for name, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare) or not any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
                continue
            operands = [node.left, *node.comparators]
            if any(isinstance(one, ast.Constant | ast.Call | ast.BinOp) for one in operands):
                continue  # with a fixed text, a length or a hash of it
            if any(names_of(one) & SECRET_NAMES for one in operands):
                found.add(f"{name}: {ast.unparse(node)}")
    assert found == set(PUBLIC)


def test_t55_what_is_secret_is_compared_in_constant_time() -> None:
    used = {name for name, tree in trees() for node in ast.walk(tree) if getattr(node, "attr", "") == "compare_digest"}
    assert used >= {
        "coordinator/sealed/records.py",
        "coordinator/sealed/shares.py",
        "evidence/verify/binding.py",
        "manifest/appraise.py",
        "vault/layout.py",
    }


# ---- T26, T05

HASHES = {"coordinator/sealed/records.py: _LABEL_HEAD"}  # a hash chain; all other labels go into HKDF or what is signed


def labels() -> dict[str, bytes]:
    """Every label in the source, by module and name or line."""
    found: dict[str, bytes] = {}
    for name, tree in trees():
        for node in tree.body + [one for one in ast.walk(tree) if isinstance(one, ast.BinOp)]:
            for one in ast.walk(node):
                if isinstance(one, ast.Constant) and isinstance(one.value, bytes) and one.value.startswith(b"tacit "):
                    target = node.targets[0].id if isinstance(node, ast.Assign) else str(one.lineno)  # type: ignore[attr-defined]
                    found.setdefault(f"{name}: {one.value!r}", one.value)
                    if f"{name}: {target}" in HASHES:
                        found.pop(f"{name}: {one.value!r}")
    return found


def test_t26_no_label_begins_another() -> None:
    found = labels()
    assert len(found) >= 10
    # A capsule's keys come from one label and a purpose behind it; its identity is a hash.
    purposes = {b"tacit capsule v1 " + purpose for purpose in (b"commitment", b"content", b"index")}
    values = sorted({value for value in found.values() if value != b"tacit capsule v1 "} | purposes)
    assert len(values) == len(set(values))
    for first, second in itertools.pairwise(values):
        assert not second.startswith(first), f"{first!r} begins {second!r}"


def test_t05_what_the_root_key_signs_beside_certificates_is_no_certificate() -> None:
    from tacit.wire.rest import state_mark_message

    message = state_mark_message(1, bytes(32))
    assert message.startswith(b"tacit state head v1\0")
    assert message[0] != 0x30, "a certificate is a SEQUENCE"
    assert state_mark_message(1, bytes(32)) != state_mark_message(256, bytes(32))


# ---- T04


def test_t04_evidence_is_made_over_report_data_alone() -> None:
    calls = [
        (name, ast.unparse(node.args[0]))
        for name, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "issue_evidence"
    ]
    assert {name for name, _ in calls} == {
        "coordinator/core/vouching.py",
        "marble/premain.py",
        "programs/model_server/evidence.py",
    }
    assert all(data.startswith("report_data(role=Role.") for _, data in calls), "never over bytes of a caller's choice"


# ---- T66


def test_t66_every_locked_package_has_one_version_and_hashes() -> None:
    locks = sorted((ROOT / "lock").glob("*.txt"))
    assert len(locks) >= 4
    for lock in locks:
        blocks = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", lock.read_text()).strip())
        for block in blocks:
            first = block.splitlines()[0]
            assert re.match(r"[A-Za-z0-9._-]+(\[[\w,]+\])?==[\w.!+]+( ; .*)? \\$", first), f"{lock.name}: {first}"
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), f"{lock.name}: {first}"
        assert not re.search(r"https?://|--(extra-)?index-url|git\+|file:", lock.read_text())


def test_t66_what_each_program_needs_is_locked() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = {
        re.split(r"==|\[", line)[0].lower()
        for line in (ROOT / "lock" / "test.txt").read_text().splitlines()
        if "==" in line
    }
    for extra in ("client", "cli", "coordinator", "premain", "serve"):
        for text in (*project["dependencies"], *project["optional-dependencies"][extra]):
            name = re.split(r"[<>=~\[ ]", text)[0].lower()
            assert name in locked | {"tacit"}, f"{extra}: {name}"


# ---- T69

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "imp", "telnetlib", "xmlrpc"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "mktemp",
    "load_unsafe",
    "unsafe_load",
    "full_load",
    "system",
    "popen",
}


def test_t69_none_of_pythons_traps_is_in_the_source() -> None:
    found = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert):
                found.append(f"{name}:{node.lineno} assert")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                imported = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
                found += [f"{name}: {one}" for one in imported if one.split(".")[0] in FORBIDDEN_MODULES]
            elif isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                owner = getattr(getattr(node.func, "value", None), "id", "")
                if called in FORBIDDEN_CALLS and owner != "re":
                    found.append(f"{name}:{node.lineno} {called}")
                if owner == "yaml" and called == "load":
                    found.append(f"{name}:{node.lineno} yaml.load")
                if any(keyword.arg == "shell" and owner == "subprocess" for keyword in node.keywords):
                    found.append(f"{name}:{node.lineno} shell=")
    assert not found


REFUSALS = (
    "client/test_connect.py",
    "evidence/test_verification.py",
    "vault/test_capsule.py",
    "marble/test_recognise.py",
)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_t69_every_refusal_holds_without_assertions() -> None:
    """`pytest.raises` and returned values still decide there; only `assert` is gone, in our code and in the tests."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore"]
    tests = [str(ROOT / "tests" / name) for name in REFUSALS]
    done = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 100
