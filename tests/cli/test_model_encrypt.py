"""`tacit model encrypt`, `decrypt`, `rekey` and `inspect` of a capsule."""

import base64
import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from fakes.command_line import Outcome, run_app
from tacit.cli.model import app
from tacit.cli.model.encrypt import name_of
from tacit.vault import open_capsule, parse_key

CONTENT = b"weights that nobody may read " * 1000


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Commands run in an empty folder, as in the demo: `encrypted/` is relative to it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model() -> Path:
    folder = Path("models/digits/3")
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(CONTENT)
    (folder / "variables/variables.index").write_bytes(b"index")
    return folder


@pytest.fixture
def memory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="tacit-test-") as folder:
        yield Path(folder)


def encrypt(model: Path, *more: object) -> Outcome:
    return run_app(app, "encrypt", "-k", "model_key", "-m", model, *more)


def encrypt_ctr(*more: object) -> Outcome:
    return encrypt(Path("models/digits/3/saved_model.pb"), "--format", "ctr", *more)


def test_a_folder_becomes_a_capsule_by_its_name_and_version(model: Path) -> None:
    done = encrypt(model)
    with open_capsule(Path("encrypted/digits.capsule"), parse_key(Path("model_key").read_bytes())) as capsule:
        assert done.code == 0
        assert done.lines[0] == "Saved encrypted file to: encrypted/digits.capsule"
        assert done.lines[1] == f"ID: {capsule.info.id.hex()}"
        assert (capsule.info.name, capsule.info.version) == ("digits", 3)
        assert [file.name for file in capsule.info.files] == ["saved_model.pb", "variables/variables.index"]
        assert bytes(capsule.read("saved_model.pb")) == CONTENT


def test_name_version_and_place_can_be_given(model: Path) -> None:
    done = encrypt(model, "--name", "resnet50", "--model-version", 7, "--out", "x/y.capsule")
    assert done.lines[0] == "Saved encrypted file to: x/y.capsule"
    assert "Name: resnet50, version 7, 2 file(s)" in done.out
    assert '"MinVersion": 7' in done.out


def test_a_file_without_the_name_of_a_model_is_encrypted_with_a_warning(tmp_path: Path) -> None:
    for name, warned in (("key.json", True), ("m.onnx", False)):
        (tmp_path / name).write_bytes(CONTENT)
        done = encrypt(Path(name))
        assert done.code == 0
        assert (f"Warning: {name} has not the name of a model" in done.err) is warned


def test_a_missing_key_is_made_readable_for_its_owner_alone(model: Path) -> None:
    done = encrypt(model)
    key = Path("model_key")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(base64.b64decode(key.read_bytes(), validate=True)) == 32
    assert "Made a new key: model_key" in done.err
    assert key.read_text() not in done.out + done.err


def test_a_key_that_exists_is_used_and_never_overwritten(model: Path) -> None:
    encrypt(model)
    before = Path("model_key").read_bytes()
    done = encrypt(model, "--name", "other")
    assert Path("model_key").read_bytes() == before
    assert "Used the key in model_key" in done.err


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_key_that_others_may_read_is_told(model: Path, mode: int, warned: bool) -> None:
    key = Path("shared_key")
    key.write_bytes(bytes(range(32)))
    key.chmod(mode)
    done = run_app(app, "encrypt", "-k", key, "-m", model, "--out", "x.capsule")
    assert done.code == 0, done.err
    assert (f"Warning: not only its owner may use shared_key (mode {mode:o}); chmod 600 it." in done.err) is warned


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "empty"), (b"short", "32 raw bytes"), (base64.b64encode(b"x" * 31), "31 bytes"), (b"x" * 9999, "at most")],
)
def test_a_file_that_is_no_key_is_one_line_and_stays(content: bytes, said: str, model: Path) -> None:
    Path("model_key").write_bytes(content)
    done = encrypt(model)
    assert (done.code, said in done.err) == (1, True)
    assert Path("model_key").read_bytes() == content
    assert not Path("encrypted").exists()


def test_a_capsule_is_replaced_only_by_force(model: Path) -> None:
    encrypt(model)
    before = Path("encrypted/digits.capsule").read_bytes()
    refused = encrypt(model)
    assert (refused.code, "--force replaces it" in refused.err) == (1, True)
    assert Path("encrypted/digits.capsule").read_bytes() == before
    assert encrypt(model, "--force").code == 0
    assert Path("encrypted/digits.capsule").read_bytes() != before


def test_a_capsule_can_be_read_by_a_server_of_another_user(model: Path) -> None:
    encrypt(model)
    assert stat.S_IMODE(Path("encrypted/digits.capsule").stat().st_mode) == 0o644


def test_a_failed_encryption_leaves_no_key_and_no_capsule(model: Path) -> None:
    (model / "link").symlink_to("/etc/hostname")
    done = encrypt(model)
    assert (done.code, "is a link" in done.err) == (1, True)
    assert not Path("model_key").exists()
    assert not list(Path().rglob("*.part"))
    assert not Path("encrypted/digits.capsule").exists()


def test_a_folder_of_versions_asks_for_one_of_them(model: Path) -> None:
    done = encrypt(model.parent)
    assert (done.code, "holds versions (3); name one of them, such as models/digits/3" in done.err) == (2, True)


@pytest.mark.parametrize("kind", ["missing", "empty folder", "empty file"])
def test_a_model_that_is_not_there_is_one_line(kind: str) -> None:
    if kind == "empty folder":
        Path("m").mkdir()
    if kind == "empty file":
        Path("m").touch()
    done = encrypt(Path("m"))
    assert done.code == 1
    assert not Path("model_key").exists()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models/digits/3/saved_model.pb", ("digits", 3)),
        ("models/digits/3", ("digits", 3)),
        ("models/digits", ("digits", 1)),
        ("digits.onnx", ("digits", 1)),
        ("digits/saved_model.pb", ("digits", 1)),
    ],
)
def test_a_path_suggests_a_name_and_a_version(path: str, name: tuple[str, int], tmp_path: Path) -> None:
    place = tmp_path / path
    if place.suffix:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    else:
        place.mkdir(parents=True)
    assert name_of(place) == name


def test_the_demos_format_is_written_only_when_asked_for_by_its_weakness(model: Path) -> None:
    done = encrypt_ctr()
    assert (done.code, "has no authentication" in done.err, "--unauthenticated" in done.err) == (2, True, True)
    assert not Path("encrypted").exists()


def test_the_demos_format_is_the_originals_byte_for_byte(model: Path) -> None:
    done = encrypt_ctr("--unauthenticated")
    raw = Path("encrypted/saved_model.pb.encrypted").read_bytes()
    key, iv = base64.b64decode(Path("model_key").read_bytes()), raw[-16:]
    identity = f"ID: {hashlib.sha256(raw).hexdigest()}"
    assert done.lines == ["Saved encrypted file to: encrypted/saved_model.pb.encrypted", identity]
    assert run_app(app, "inspect", "encrypted/saved_model.pb.encrypted").lines[-1] == identity
    assert "is not authenticated" in done.err
    assert raw[:-16] == Cipher(AES(key), CTR(iv)).encryptor().update(CONTENT)


def test_openssl_opens_what_the_demos_format_hides(model: Path) -> None:
    encrypt_ctr("--unauthenticated")
    raw = Path("encrypted/saved_model.pb.encrypted").read_bytes()
    key = base64.b64decode(Path("model_key").read_bytes())
    opened = subprocess.run(
        ["openssl", "enc", "-d", "-aes-256-ctr", "-K", key.hex(), "-iv", raw[-16:].hex()],
        input=raw[:-16],
        capture_output=True,
        check=True,
    )
    assert opened.stdout == CONTENT


def test_the_demos_key_file_has_no_newline(model: Path) -> None:
    encrypt_ctr("--unauthenticated")
    assert len(Path("model_key").read_bytes()) == 44


def test_the_demos_format_holds_no_folder_and_no_name(model: Path) -> None:
    assert "one file" in encrypt(model, "--format", "ctr", "--unauthenticated").err
    assert encrypt_ctr("--unauthenticated", "--name", "x").code == 2


def test_an_unknown_format_is_wrong_usage(model: Path) -> None:
    assert encrypt(model, "--format", "zip").code == 2


def decrypt(out: Path, *more: object, of: str = "encrypted/digits.capsule") -> Outcome:
    return run_app(app, "decrypt", "-k", "model_key", "-m", of, "-o", out, *more)


def test_a_capsule_opens_into_memory(model: Path, memory: Path) -> None:
    encrypt(model)
    done = decrypt(memory / "digits")
    assert done.code == 0
    assert (memory / "digits/saved_model.pb").read_bytes() == CONTENT
    assert (memory / "digits/variables/variables.index").read_bytes() == b"index"
    assert stat.S_IMODE((memory / "digits").stat().st_mode) == 0o700


@pytest.mark.parametrize("out", ["/proc/plain", "/proc/deep/er/plain"])
def test_t46_plaintext_goes_to_memory_only(out: str, model: Path) -> None:
    # /proc is never a tmpfs, whatever this machine's folders for tests lie on.
    encrypt(model)
    done = decrypt(Path(out))
    assert (done.code, "must not reach a disk" in done.err) == (1, True)
    assert not Path(out).exists()


def test_plaintext_elsewhere_needs_a_loud_flag(model: Path) -> None:
    encrypt(model)
    told = decrypt(Path("deep/er/plain"), "--plaintext-on-disk")
    assert (told.code, "Warning: the plaintext model lies in" in told.err) == (0, True)
    assert Path("deep/er/plain/saved_model.pb").read_bytes() == CONTENT


def test_another_key_opens_nothing_and_leaves_nothing(model: Path, memory: Path) -> None:
    encrypt(model)
    Path("model_key").write_bytes(base64.b64encode(os.urandom(32)))
    done = decrypt(memory / "digits")
    assert done.code == 1
    assert not list(memory.iterdir())


def test_an_altered_capsule_leaves_nothing(model: Path, memory: Path) -> None:
    encrypt(model)
    capsule = Path("encrypted/digits.capsule")
    raw = bytearray(capsule.read_bytes())
    raw[len(raw) // 2] ^= 1
    capsule.write_bytes(raw)
    assert decrypt(memory / "digits").code == 1
    assert not list(memory.iterdir())


def test_the_demos_format_opens_into_memory(model: Path, memory: Path) -> None:
    encrypt_ctr("--unauthenticated")
    done = decrypt(memory / "x.pb", "--format", "ctr", of="encrypted/saved_model.pb.encrypted")
    assert (done.code, "not authenticated" in done.err) == (0, True)
    assert (memory / "x.pb").read_bytes() == CONTENT


def test_rekeying_in_place_makes_a_key_and_keeps_the_content(model: Path) -> None:
    encrypt(model)
    old = Path("encrypted/digits.capsule").read_bytes()
    done = run_app(app, "rekey", "-k", "model_key", "--new-key", "next", "-m", "encrypted/digits.capsule")
    assert done.code == 0
    assert Path("encrypted/digits.capsule").read_bytes() != old
    with open_capsule(Path("encrypted/digits.capsule"), parse_key(Path("next").read_bytes())) as capsule:
        assert bytes(capsule.read("saved_model.pb")) == CONTENT
        assert f"ID: {capsule.info.id.hex()}" in done.lines


def test_rekeying_with_the_wrong_key_changes_nothing(model: Path) -> None:
    encrypt(model)
    before = Path("encrypted/digits.capsule").read_bytes()
    Path("wrong").write_bytes(base64.b64encode(os.urandom(32)))
    done = run_app(app, "rekey", "-k", "wrong", "--new-key", "next", "-m", "encrypted/digits.capsule")
    assert done.code == 1
    assert Path("encrypted/digits.capsule").read_bytes() == before
    assert not Path("next").exists()


def test_rekeying_with_the_same_key_is_refused(model: Path) -> None:
    encrypt(model)
    words = ("-k", "model_key", "--new-key", "model_key", "-m", "encrypted/digits.capsule")
    assert "has already" in run_app(app, "rekey", *words).err


def test_inspect_shows_a_capsules_id_and_with_its_key_the_rest(model: Path) -> None:
    identity = encrypt(model).lines[1]
    without = run_app(app, "inspect", "encrypted/digits.capsule")
    assert identity in without.lines
    assert "saved_model.pb" not in without.out
    lines = run_app(app, "inspect", "encrypted/digits.capsule", "-k", "model_key").lines
    assert lines[1:4] == [identity, "Name: digits, version 3", f"  saved_model.pb: {len(CONTENT)} bytes"]


def test_inspect_of_a_file_that_is_no_capsule_is_one_line() -> None:
    Path("x.capsule").write_bytes(b"hello")
    done = run_app(app, "inspect", "x.capsule")
    assert (done.code, done.err.startswith("Error: ")) == (1, True)


def test_t46_a_way_back_behind_a_folder_that_is_not_there_leads_to_no_disk(model: Path, memory: Path) -> None:
    encrypt(model)
    done = decrypt(memory / "new/../../../../proc/plain")
    assert (done.code, "must not reach a disk" in done.err) == (1, True)
    assert not list(memory.iterdir())


def test_a_place_that_is_taken_is_not_written_into(model: Path, memory: Path) -> None:
    encrypt(model)
    (memory / "there").mkdir()
    assert "there exists already; name another place with --out" in decrypt(memory / "there").err


def test_a_capsule_is_not_taken_for_the_demos_format_nor_the_other_way_round(model: Path, memory: Path) -> None:
    encrypt(model)
    encrypt_ctr("--unauthenticated")
    assert "is a capsule; leave --format out" in decrypt(memory / "x", "--format", "ctr").err
    assert "wants --format ctr" in decrypt(memory / "x", of="encrypted/saved_model.pb.encrypted").err
    assert not list(memory.iterdir())


@pytest.mark.parametrize("verb", ["decrypt", "rekey", "inspect"])
def test_a_refused_capsule_is_named(verb: str, model: Path) -> None:
    encrypt(model)
    Path("other").write_bytes(base64.b64encode(bytes(32)))
    capsule = "encrypted/digits.capsule"
    words = {
        "decrypt": ("-k", "other", "-m", capsule, "-o", "/dev/shm/tacit-test-none"),
        "rekey": ("-k", "other", "--new-key", "next", "-m", capsule),
        "inspect": ("-k", "other", capsule),
    }
    assert f"Error: {capsule}: this key does not open" in run_app(app, verb, *words[verb]).err
