"""Whatever is typed wrongly, missing, damaged or out of reach is one line that says so; nothing is left half-written."""

import contextlib
import json
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from fakes.command_line import run_main
from tacit.cli.files import read_input
from tacit.errors import FileInputError
from tacit.pki import issue_self_signed

NOBODY = "127.0.0.1:1"
USER = "-c user.crt -k user.key"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("bad")
    user, other = (issue_self_signed([], common_name=name, now=datetime.now(UTC)) for name in ("user", "other"))
    (made / "user.crt").write_bytes(user.certificate_pem)
    (made / "user.key").write_bytes(user.key_pem)
    (made / "other.key").write_bytes(other.key_pem)
    closed = user.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    (made / "closed.key").write_bytes(closed)
    (made / "zeros").write_bytes(bytes(3 << 20))
    (made / "empty").write_bytes(b"")
    (made / "m.json").write_text(json.dumps({"Packages": {"p": {"Debug": True}}, "Marbles": {"m": {"Package": "p"}}}))
    (made / "secrets.json").write_text('{"k": {"Key": "eA=="}}')
    with (made / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(made / "config"))
        patch.setenv("TACIT_PLATFORM", str(made / "platform"))
        patch.chdir(made)
        yield made


CASES = [
    # files that are not there, are no files, are empty or huge
    *[
        (f"{verb} {file} {rest}", reason)
        for verb, rest in [
            ("manifest signature", ""),
            ("manifest check", ""),
            ("manifest lint", ""),
            ("manifest diff m.json", ""),
            ("manifest update apply", f"{NOBODY} {USER} -i"),
            ("manifest update acknowledge", f"{NOBODY} {USER} -i"),
        ]
        for file, reason in [
            ("none.json", "open none.json: no such file or directory"),
            (".", "open .: is a directory"),
            ("empty", "empty is empty"),
            ("huge", "1099511627776 bytes"),
        ]
    ],
    (f"secret set none.json {NOBODY} {USER} -i", "open none.json: no such file or directory"),
    (f"secret set zeros {NOBODY} {USER} -i", 'expected {"NAME": {"Key": "BASE64"}}'),
    (f"secret set huge {NOBODY} {USER} -i", "1099511627776 bytes"),
    (f"recover none {NOBODY} -k user.key -i", "open none: no such file or directory"),
    (f"recover zeros {NOBODY} -k user.key -i", "3145728 bytes"),
    (f"recover-with-signature none {NOBODY} -s zeros -i", "open none: no such file or directory"),
    (f"recover-with-signature m.json {NOBODY} -s huge -i", "1099511627776 bytes"),
    ("package-info none.sig", "none.sig is neither a file nor a program"),
    ("package-info huge", "1099511627776 bytes"),
    (f"status {NOBODY} --era-config none.json", "reading era config file: open none.json: no such file"),
    (f"status {NOBODY} --coordinator-cert none.pem", "open none.pem: no such file or directory"),
    (f"status {NOBODY} --coordinator-cert zeros", "zeros: "),
    # certificates and keys
    *[
        (f"{verb} {words} -i", reason)
        for verb in ("secret get name " + NOBODY, f"manifest update cancel {NOBODY}")
        for words, reason in [
            ("-c user.crt -k other.key", "does not belong to the certificate"),
            ("-c user.crt -k closed.key", "the private key is encrypted"),
            ("-c user.key -k user.key", "no PEM certificate found"),
            ("-c user.crt -k user.crt", "no PEM private key found"),
            ("-c zeros -k user.key", "at most 1048576 are read"),
            ("-c none -k user.key", "open none: no such file or directory"),
            ("-c user.crt", "Missing option"),
        ]
    ],
    # of several files, the one that is wrong
    *[
        (words, f"Error: {reason}")
        for words, reason in [
            (f"secret set zeros {NOBODY} {USER} -i", "zeros: the secrets are not as expected"),
            (f"recover m.json {NOBODY} -k user.crt -i", "user.crt: no PEM private key found"),
            (f"recover m.json {NOBODY} -k user.key -i", "user.key: the key of a recovery secret is an RSA key"),
            ("recover-with-signature sign-secret m.json -k user.key -o out", "user.key: the key of a recovery secret"),
            (
                "recover-with-signature encrypt-secret secrets.json --coordinator-pub-key user.crt -o out",
                "secrets.json: the secret has 22 bytes, so it is still encrypted",
            ),
            ("manifest sign m.json -k user.crt -o out", "user.crt: no PEM private key found"),
            (
                f"trust {NOBODY} --tee unattested --signer user.crt --signer user.key --signatures out",
                "user.key: ",
            ),
            ("evidence show zeros", "zeros has 3145728 bytes"),
            ("evidence show m.json", "m.json: quote version"),
            ("evidence bundle out m.json", "m.json: quote version"),
        ]
    ],
    # nobody there, or no name
    *[
        (f"{words} -i", f"nobody answers at {NOBODY}")
        for words in [
            f"status {NOBODY}",
            f"manifest set m.json {NOBODY}",
            f"manifest get {NOBODY} -o out",
            f"manifest verify m.json {NOBODY}",
            f"manifest log {NOBODY} -o out",
            f"manifest update apply m.json {NOBODY} {USER} -r out",
            f"manifest update acknowledge m.json {NOBODY} {USER} -r out",
            f"manifest update cancel {NOBODY} {USER}",
            f"manifest update get {NOBODY} -o out",
            f"certificate root {NOBODY} -o out",
            f"certificate intermediate {NOBODY} -o out",
            f"certificate chain {NOBODY} -o out",
            f"secret get name {NOBODY} {USER} -o out",
            f"secret set secrets.json {NOBODY} {USER}",
            f"recover-with-signature public-key {NOBODY} -o out",
            f"recover-with-signature m.json {NOBODY} -s m.json",
        ]
    ],
    ("status nobody.invalid -i", "nobody answers at nobody.invalid:4433"),
    # nothing said about the host
    *[
        (words, "say it once with `tacit trust")
        for words in [
            f"status {NOBODY}",
            f"manifest log {NOBODY}",
            f"manifest update get {NOBODY}",
            f"certificate chain {NOBODY} -o out",
            f"secret get name {NOBODY} {USER}",
            f"recover-with-signature public-key {NOBODY} -o out",
        ]
    ],
]


@pytest.mark.parametrize(("line", "reason"), CASES, ids=[line for line, _ in CASES])
def test_one_line_says_what_is_wrong_and_nothing_is_written(folder: Path, line: str, reason: str) -> None:
    before = sorted(folder.rglob("*"))
    done = run_main(*line.split())
    assert done.code == 1
    assert reason in done.err
    assert sorted(folder.rglob("*")) == before


def test_what_comes_out_of_a_pipe_is_read_and_not_without_end(tmp_path: Path) -> None:
    def through(content: bytes, *, largest: int) -> bytes:
        pipe = tmp_path / "pipe"
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)

        def write() -> None:
            with contextlib.suppress(BrokenPipeError), pipe.open("wb") as out:
                out.write(content)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            return read_input(pipe, largest=largest)
        finally:
            writer.join()

    assert through(b"secret", largest=6) == b"secret"
    with pytest.raises(FileInputError, match="pipe gives more bytes than are expected: at most 6 are expected"):
        through(b"secrets" * 100_000, largest=6)
    with pytest.raises(FileInputError, match="not a regular file; name a file, or a pipe"):
        read_input(Path("/dev/zero"))
