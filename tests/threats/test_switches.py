"""T68: no variable and no flag makes an attested check weaker."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fakes.coordinator import FakeCoordinator
from fakes.mesh import mesh
from fakes.tee import NOW, FakeTee
from tacit.client.connect import attest_coordinator
from tacit.client.trust import Expectation, TrustStore
from tacit.errors import TacitError
from tacit.evidence.simulated.platform import render_platform
from tacit.manifest import Package
from tacit.marble.activate import parse_settings
from tacit.marble.premain import prepare
from tacit.marble.recognise import load_recognition
from tacit.programs.coordinator import read_config
from tacit.programs.premain import load_coordinator_anchor
from tacit.wire.pb.marble_pb2 import ActivationRequest, Parameters

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "src" / "tacit"
OWN = sorted(
    {
        name
        for path in SOURCE.rglob("*.py")
        for name in re.findall(r"\b(?:TACIT|EDG|OE|MARBLE|XDG)_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())
    }
)
FOREIGN = [
    "PYTHONHTTPSVERIFY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY",
    "ALL_PROXY", "SGX_AESM_ADDR", "PCCS_ADDR", "PCCS_USE_SECURE_CERT", "NODE_TLS_REJECT_UNAUTHORIZED", "INSECURE",
    "DEBUG", "TACIT_INSECURE", "TACIT_DEBUG", "OPENSSL_CONF",
]  # fmt: skip
VALUES = ("1", "unattested", "simulated")


@contextmanager
def impostor(folder: Path) -> Iterator[tuple[FakeCoordinator, int, list[ActivationRequest]]]:
    """Another program at the coordinator's place, on the right platform: only its measurement gives it away."""
    asked: list[ActivationRequest] = []

    def answer(request: ActivationRequest, certificate: bytes) -> Parameters:
        asked.append(request)
        return Parameters(argv=["true"])

    tee = FakeTee(measurement=b"\xee" * 32)
    (folder / "platform").mkdir()
    (folder / "platform" / "platform.json").write_bytes(render_platform(tee.platform.public()))
    with FakeCoordinator(tee=tee) as api, mesh(answer, intermediate=api.intermediate) as port:
        yield api, port, asked


def test_the_list_of_our_own_variables_is_not_empty() -> None:
    assert {"TACIT_UNATTESTED", "OE_SIMULATION", "TACIT_COORDINATOR_PACKAGE", "EDG_CWD"} <= set(OWN)


def test_t68_no_variable_makes_premain_obey_an_impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package.json"
    package.write_text('{"TEE": "simulated", "UniqueID": "%s"}' % ("c0" * 32))
    weak = []
    with impostor(tmp_path) as (api, port, asked):
        base = {
            "EDG_MARBLE_TYPE": "t",
            "EDG_MARBLE_COORDINATOR_ADDR": f"localhost:{port}",
            "TACIT_COORDINATOR_API": api.host,
            "TACIT_PLATFORM": str(tmp_path / "platform"),
            "TACIT_MEMORY_DIR": "/dev/shm",
            "TACIT_ACTIVATION_TIMEOUT": "0",
            "EDG_MARBLE_UUID_FILE": str(tmp_path / "uuid"),
        }
        for name in (*OWN, *FOREIGN):
            for value in VALUES:
                environ = base | {name: value} | {"TACIT_COORDINATOR_PACKAGE": str(package)}
                with monkeypatch.context() as patch:
                    for one, content in environ.items():
                        patch.setenv(one, content)
                    patch.chdir(tmp_path)
                    try:
                        settings = parse_settings(environ, tmp_path)
                        prepare(
                            settings,
                            None,
                            load_recognition(settings, load_coordinator_anchor),
                            command=(),
                            inherited=environ,
                            programs=tmp_path,
                            now=NOW,
                            randomness=os.urandom,
                            say=lambda line: None,
                        )
                    except TacitError:
                        continue
                    weak.append((name, value))
    assert not weak
    assert not asked


def test_t68_no_variable_makes_a_client_trust_an_impostor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust = TrustStore(tmp_path / "config" / "tacit")
    with impostor(tmp_path) as (api, _, _):
        assert api.tee is not None
        package = Package(unique_id=b"\xc0" * 32, tee="simulated")
        trust.store_expectation(api.host, Expectation("simulated", package, api.tee.anchor))
        for name in (*OWN, *FOREIGN):
            for value in VALUES:
                with monkeypatch.context() as patch:
                    patch.setenv(name, value)
                    platform = tmp_path / "platform"
                    with pytest.raises(TacitError):
                        attest_coordinator(api.host, trust, now=NOW, nonce=bytes(32), platform=platform, timeout=5)


def test_t68_only_the_documented_switches_begin_unattested_mode() -> None:
    found = set()
    for name in (*OWN, *FOREIGN):
        for value in (*VALUES, "true", "yes", "0", ""):
            try:
                if read_config([], {"HOME": "/nowhere", name: value}).unattested:
                    found.add((name, value))
            except TacitError:
                continue  # a value that this variable cannot have
    assert found == {("OE_SIMULATION", "1")}
    assert read_config(["--unattested"], {}).unattested


@pytest.mark.parametrize("flag", ["--insecure", "--no-verify", "--debug", "-i", "--un", "--simulated"])
def test_t68_no_other_flag_is_taken_for_unattested(flag: str) -> None:
    with pytest.raises((TacitError, SystemExit)):
        read_config([flag], {"HOME": "/nowhere"})
