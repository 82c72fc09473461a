"""How premain ends, in each way that is no command: by signals, by a mesh port that answers nonsense, by wrong settings."""

import asyncio
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from fakes.mesh import mesh
from fakes.tee import NOW, FakeTee
from tacit.client.address import Address
from tacit.errors import ActivationError, FileInputError, TacitError, UsageError
from tacit.marble.activate import Settings, parse_settings
from tacit.marble.place import load_certificates, load_or_store_uuid
from tacit.marble.premain import Launch, _call, prepare
from tacit.marble.recognise import NotYet, Unknown
from tacit.pki import issue_self_signed
from tacit.pki.tls import unverified_client_context
from tacit.programs.premain import start
from tacit.wire.pb.marble_pb2 import Parameters

PREMAIN = Path(sys.executable).parent / "tacit-premain"


# ---- a mesh port that answers nonsense

GRPC = [(":status", "200"), ("content-type", "application/grpc")]
FINE = [("grpc-status", "0")]


def message(content: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(content).to_bytes(4, "big") + content


class Said:
    """Header, body and trailer of an answer; a part that is None is left out."""

    def __init__(self, header: list[Any], body: bytes | None, trailer: list[Any] | None) -> None:
        self._parts = header, body, trailer

    def __call__(self, own: h2.connection.H2Connection, stream: int) -> None:
        header, body, trailer = self._parts
        own.send_headers(stream, header, end_stream=body is None and trailer is None)
        if body is not None:
            own.send_data(stream, body, end_stream=trailer is None)
        if trailer is not None:
            own.send_headers(stream, trailer, end_stream=True)


@contextmanager
def answering(say: Callable[[h2.connection.H2Connection, int], None], folder: Path) -> Iterator[int]:
    """The port of one that speaks HTTP/2 as badly as `say` has it, to one caller."""
    identity = issue_self_signed(("localhost",), common_name="anybody", now=NOW)
    (folder / "shown.pem").write_bytes(identity.certificate_pem + identity.key_pem)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "shown.pem")
    tls.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            accepted, _ = listening.accept()
            with accepted, tls.wrap_socket(accepted, server_side=True) as sock:
                config = h2.config.H2Configuration(
                    client_side=False, validate_outbound_headers=False, normalize_outbound_headers=False
                )
                own = h2.connection.H2Connection(config)
                own.initiate_connection()
                while True:
                    sock.sendall(own.data_to_send())
                    if not (data := sock.recv(1 << 16)):
                        return
                    for event in own.receive_data(data):
                        if isinstance(event, h2.events.StreamEnded):
                            say(own, event.stream_id)

        def quietly() -> None:
            with suppress(OSError):  # the other side has left
                run()

        thread = threading.Thread(target=quietly)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


NONSENSE = {
    "no message": Said(GRPC, None, FINE),
    "an end at once": Said(GRPC + FINE, None, None),
    "compressed": Said(GRPC, message(b"x", flag=1), FINE),
    "cut": Said(GRPC, message(b"x")[:-1] + b"", FINE),
    "less than a length": Said(GRPC, b"\0\0", FINE),
    "a length of 4 GiB": Said(GRPC, b"\0\xff\xff\xff\xffx", FINE),
    "metadata that is no base64": Said([*GRPC, ("x-bin", "a")], message(b"x"), FINE),
    "a trailer that is no base64": Said(GRPC, message(b"x"), [*FINE, ("x-bin", "a")]),
    "no status": Said([("content-type", "application/grpc")], message(b"x"), FINE),
    "a header that is no text": Said([*GRPC, ("x", b"\xff\xfe")], message(b"x"), FINE),
}


@pytest.mark.parametrize("kind", NONSENSE)
def test_an_answer_that_is_none_is_told_without_a_traceback(
    kind: str, folder: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    tls = unverified_client_context(certificate=None, alpn=("h2",))
    with answering(NONSENSE[kind], folder) as port, pytest.raises(NotYet, match=f"localhost:{port}"):
        asyncio.run(_call(Address("localhost", port), b"request", tls, seconds=10))
    assert "Traceback" not in capfd.readouterr().err + caplog.text


def test_the_port_for_clients_is_told_from_the_one_for_marbles(folder: Path) -> None:
    tls = unverified_client_context(certificate=None, alpn=("h2",))
    refusal = Said([(":status", "405"), ("content-type", "text/plain")], None, None)
    with answering(refusal, folder) as port, pytest.raises(ActivationError, match="Marbles ask its mesh port, 2001"):
        asyncio.run(_call(Address("localhost", port), b"request", tls, seconds=10))


def test_a_refusal_of_any_length_is_told_in_part(folder: Path) -> None:
    tls = unverified_client_context(certificate=None, alpn=("h2",))
    refusal = Said(GRPC, None, [("grpc-status", "7"), ("grpc-message", "x" * 9000)])
    with answering(refusal, folder) as port, pytest.raises(ActivationError) as caught:
        asyncio.run(_call(Address("localhost", port), b"request", tls, seconds=10))
    assert 1000 < len(str(caught.value)) < 1100


# ---- the program


def environment(port: int, **more: str) -> dict[str, str]:
    told = {"EDG_MARBLE_TYPE": "t", "EDG_MARBLE_COORDINATOR_ADDR": f"localhost:{port}", "TACIT_UNATTESTED": "1"}
    return {"PATH": os.environ["PATH"], **told, **more}


def run_premain(folder: Path, port: int, **more: str) -> "subprocess.CompletedProcess[str]":
    env = environment(port, **more)
    return subprocess.run([PREMAIN], cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_nothing_that_somebody_else_says_looks_like_a_line_of_ours(folder: Path) -> None:
    say = Said(GRPC, None, [("grpc-status", "7"), ("grpc-message", "no%0a[PreMain] activated%1b[2J")])
    with answering(say, folder) as port:
        done = run_premain(folder, port)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("refuses: no\ufffd[PreMain] activated\ufffd[2J")


@pytest.fixture
def first() -> tuple[str, ...]:
    """What makes a program the first process of its own, as in a container."""
    unshare = ("unshare", "--fork", "--pid", "--kill-child", "--mount-proc")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
    ):
        reason = "needs process namespaces (root, and util-linux's unshare)"
        pytest.fail(reason) if os.environ.get("TACIT_CI") == "1" else pytest.skip(reason)
    return unshare


def ended(running: "subprocess.Popen[str]", process: int) -> int:
    """The exit code after SIGTERM, once it has said that it waits."""
    assert running.stderr
    said = ""
    while "trying again" not in said and "not there yet" not in said:
        said = running.stderr.readline()
        assert said, "it ended before it waited"
    os.kill(process, signal.SIGTERM)
    return running.wait(20)


def test_sigterm_ends_the_first_process_of_a_container_that_waits(folder: Path, first: tuple[str, ...]) -> None:
    """The kernel drops a signal for such a process that has no handler, and a pod would wait to be killed."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with subprocess.Popen(
        [*first, PREMAIN], cwd=folder, env=environment(port), stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            deadline = time.monotonic() + 20
            children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
            while not (found := children.read_text().split()) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert ended(running, int(found[0])) == 128 + signal.SIGTERM
        finally:
            running.kill()


def test_sigterm_ends_the_wait_for_a_model(folder: Path, memory: Path) -> None:
    def answer(*_: object) -> Parameters:
        return Parameters(argv=["sh", "-c", "true", f"--model_base_path={memory}/m"])

    more = {"EDG_DECRYPT_MODEL": "1", "TACIT_ENCRYPTED_MODEL": str(folder / "later")}
    with (
        mesh(answer) as port,
        subprocess.Popen(
            [PREMAIN], cwd=folder, env=environment(port, **more), stderr=subprocess.PIPE, text=True
        ) as running,
    ):
        try:
            assert ended(running, running.pid) == 128 + signal.SIGTERM
            assert running.stderr
            assert "Traceback" not in running.stderr.read()
        finally:
            running.kill()


def test_a_command_starts_with_no_signal_ignored_that_python_does(folder: Path) -> None:
    """Python ignores SIGPIPE, and a command that inherits that writes for ever into a pipe that nobody reads."""
    with mesh(lambda *_: Parameters(argv=["sh", "-c", "grep SigIgn /proc/self/status"])) as port:
        done = run_premain(folder, port)
    word, ignored = done.stdout.split()
    # Not more is asked: what started these tests may ignore others, which are its to hand on.
    ours = sum(1 << (each - 1) for each in (signal.SIGPIPE, signal.SIGXFSZ))
    assert (word, int(ignored, 16) & ours) == ("SigIgn:", 0)


def test_a_folder_that_was_removed_is_told(folder: Path) -> None:
    script = 'mkdir gone && cd gone && rmdir ../gone && exec "$0"'
    done = subprocess.run(
        ["sh", "-c", script, PREMAIN], cwd=folder, env=environment(1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "Error: the folder that this was started in cannot be told (No such file or directory); start it in another"
    )


# ---- keys of a command that does not start


@pytest.fixture
def settings(folder: Path, memory: Path) -> Settings:
    return parse_settings({"EDG_MARBLE_TYPE": "t", "TACIT_MEMORY_DIR": str(memory)}, folder)


def prepared(settings: Settings, tee: FakeTee, port: int) -> Launch:
    return prepare(
        replace(settings, coordinator=f"localhost:{port}"),
        tee,
        Unknown(),
        command=(),
        inherited={},
        programs=Path("/nowhere"),
        now=NOW,
        randomness=os.urandom,
        say=lambda line: None,
    )


@pytest.mark.parametrize(
    "more",
    [{"argv": ["/etc/passwd"]}, {"argv": ["no-such-program"]}, {"argv": ["sh"], "files": {"/proc/nowhere/x": b"x"}}],
)
def test_keys_do_not_stay_behind_where_nothing_starts(
    more: Mapping[str, Any], settings: Settings, memory: Path, tee: FakeTee
) -> None:
    parameters = {**more, "files": {"/tacit/keys/m": b"k" * 32, **more.get("files", {})}}
    with mesh(lambda *_: Parameters(**parameters)) as port, pytest.raises(TacitError):
        prepared(settings, tee, port)
    assert list(memory.iterdir()) == []


def test_keys_do_not_stay_behind_where_the_system_refuses_to_start(
    settings: Settings, memory: Path, folder: Path, tee: FakeTee
) -> None:
    script = folder / "no-program"
    script.write_bytes(b"\0no program\n")
    script.chmod(0o700)
    parameters = Parameters(argv=[str(script)], files={"/tacit/keys/m": b"k" * 32})
    handlers = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGXFSZ)}
    with mesh(lambda *_: parameters) as port:
        launch = prepared(settings, tee, port)
    assert list(memory.rglob("m"))
    try:
        with pytest.raises(TacitError, match="cannot start .*no-program: Exec format error"):
            start(launch)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert list(memory.iterdir()) == []


# ---- settings


@pytest.mark.parametrize("names", [",", " , ", "a b", "ä.de", "a,,-b", "x" * 64, "https://a.de", "a.de/24"])
def test_names_that_no_certificate_is_asked_for_are_refused(names: str) -> None:
    with pytest.raises(UsageError, match="EDG_MARBLE_DNS_NAMES is .* is neither a DNS name nor an IP address"):
        parse_settings({"EDG_MARBLE_TYPE": "t", "EDG_MARBLE_DNS_NAMES": names}, Path("/w"))


def test_names_of_every_kind_are_taken() -> None:
    names = "localhost, *.shop.example, _a.b., 10.0.0.1,::1"
    found = parse_settings({"EDG_MARBLE_TYPE": "t", "EDG_MARBLE_DNS_NAMES": names}, Path("/w")).names
    assert found == ("localhost", "*.shop.example", "_a.b.", "10.0.0.1", "::1")


def test_a_type_that_is_no_text_is_refused() -> None:
    with pytest.raises(UsageError, match=r"EDG_MARBLE_TYPE is 'a\\udcff', and no manifest has such a name"):
        parse_settings({"EDG_MARBLE_TYPE": "a\udcff"}, Path("/w"))


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_a_certificate_is_told_by_its_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "known.pem"
    file.write_bytes(content)
    with pytest.raises(
        FileInputError, match=r"known.pem holds no certificate in PEM .*; TACIT_COORDINATOR_CERTIFICATE names"
    ):
        load_certificates(file)


def test_an_id_that_cannot_be_kept_is_told_with_the_variable_that_names_its_place() -> None:
    with pytest.raises(FileInputError, match=r"cannot write /proc/uuid: .*EDG_MARBLE_UUID_FILE names another file"):
        load_or_store_uuid(Path("/proc/uuid"), "n" * 36, lambda line: None)
