"""The command line as a whole: exit codes, and what an error looks like, whatever was typed."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import typer

from fakes.command_line import run_main
from tacit.cli import app as command_line
from tacit.cli.trust.flags import MARBLERUN_VERBS, arrange

PROGRAM = Path(sys.executable).with_name("tacit")


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that can be typed, with its words."""
    group = group or typer.main.get_command(command_line.app)
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_does_with_an_example(words: tuple[str, ...]) -> None:
    done = run_main(*words, "--help")
    assert done.code == 0
    assert f"Example: tacit {' '.join(words)}" in " ".join(done.out.replace("│", " ").split())


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_unknown_option_is_wrong_usage_of_every_command(words: tuple[str, ...]) -> None:
    done = run_main(*words, "--nonsense")
    assert done.code == (1 if words[0] in MARBLERUN_VERBS else 2)
    assert "--nonsense" in done.err
    assert f"See: tacit {' '.join(words)} --help" in done.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["nonsense"], 2),
        (["--nonsense"], 2),
        (["trust", "localhost", "--product-id", "x"], 2),
        (["predict"], 2),
        (["status"], 1),
        (["status", "a", "b"], 1),
        (["status", "a", "--output", "xml"], 1),
        (["manifest", "nonsense"], 1),
        (["manifest", "set", "only-a-file"], 1),
        (["certificate", "root", "localhost", "-o"], 1),
        (["secret", "get", "name", "localhost"], 1),
        (["package-info", "premain"], 1),
    ],
)
def test_wrong_usage_is_1_for_marbleruns_verbs_and_2_for_ours(words: list[str], code: int) -> None:
    assert run_main(*words).code == code


@pytest.mark.parametrize("words", [(), ("manifest",), ("secret",), ("model",)], ids=repr)
def test_no_command_is_a_question_for_help(words: tuple[str, ...]) -> None:
    done = run_main(*words)
    assert (done.code, done.err) == (0, "")
    assert "Usage: " in done.out


@pytest.mark.parametrize("option", sorted(command_line.FOREIGN_OPTIONS))
def test_an_option_of_marbleruns_is_refused_by_name_where_it_has_no_place(option: str) -> None:
    done = run_main("predict", "localhost:4433", "model", "input.npy", option, "value")
    assert done.code == 2
    assert f"{option} is an option of MarbleRun's" in done.err


@pytest.mark.parametrize("option", [one for one in command_line.FOREIGN_OPTIONS if one.startswith("--pkcs11")])
def test_keys_in_hardware_are_refused_by_name(option: str) -> None:
    done = run_main("secret", "get", "name", "localhost", "-c", "a", "-k", "b", option, "value")
    assert done.code == 1
    assert f"{option} is an option of MarbleRun's" in done.err
    assert "--cert and --key" in done.err


@pytest.mark.parametrize("option", ["--distributed-deployment", "--dcap-secure-cert", "--version"])
def test_what_marbleruns_install_takes_and_ours_does_not_is_refused_by_name(option: str) -> None:
    done = run_main("install", option, "value")
    assert (done.code, done.out) == (1, "")
    assert f"{option} is an option of MarbleRun's" in done.err


@pytest.mark.parametrize("verb", ["install", "model", "version-of-nothing"])
def test_the_way_through_a_cluster_is_for_what_asks_a_coordinator(verb: str) -> None:
    done = run_main("--kube", verb, "encrypt")
    assert done.code in (1, 2)
    assert "--kube" in done.err or "No such command" in done.err


def test_a_name_that_is_no_namespace_is_wrong_usage() -> None:
    done = run_main("check", "--namespace", "../etc")
    assert done.code == 1
    assert "is no namespace" in done.err


@pytest.mark.parametrize("option", ["--nonce", "-n", "--era-config"])
def test_an_option_without_its_value_is_wrong_usage(option: str) -> None:
    done = run_main("status", "localhost:1", option)
    assert done.code == 1
    assert f"Option '{option}' requires an argument" in done.err


def test_an_option_of_marbleruns_verbs_before_another_verb_is_refused() -> None:
    done = run_main("--nonce", "x", "trust")
    assert done.code == 2
    assert "stands before trust" in done.err


@pytest.mark.parametrize(
    ("typed", "arranged"),
    [
        (["-i", "status", "h"], ["status", "h", "-i"]),
        (["manifest", "-i", "set", "f", "h"], ["manifest", "set", "f", "h", "-i"]),
        (["status", "h", "--insecure=true"], ["status", "h", "-i"]),
        (["status", "h", "-i=false"], ["status", "h"]),
        (["status", "h", "--nonce", "x", "-i"], ["--nonce", "x", "status", "h", "-i"]),
        (["status", "h", "--nonce=a=b"], ["--nonce", "a=b", "status", "h"]),
        (["-n", "ns", "status", "h"], ["-n", "ns", "status", "h"]),
        (["status", "h", "-nns", "-i"], ["-n", "ns", "status", "h", "-i"]),
        (["-i", "manifest", "signature", "f"], ["manifest", "signature", "f"]),
        (["manifest", "signature", "-i", "--", "f"], ["manifest", "signature", "--", "f"]),
        (["recover-with-signature", "sign-secret", "f", "--insecure"], ["recover-with-signature", "sign-secret", "f"]),
        (["package-info", "f", "-i"], ["package-info", "f"]),
        (["check", "--insecure=true"], ["check"]),
        (["certificate", "root", "h", "-o=f"], ["certificate", "root", "h", "-o", "f"]),
        (["status", "-i", "--", "-i"], ["status", "-i", "--", "-i"]),
        (["help", "status"], ["status", "--help"]),
        (["up", "m.onnx", "--name=x"], ["up", "m.onnx", "--name=x"]),
    ],
)
def test_words_may_stand_where_marbleruns_command_line_takes_them(typed: list[str], arranged: list[str]) -> None:
    assert arrange(typed) == arranged


@pytest.mark.parametrize("output", ["", "."])
def test_an_empty_output_flag_is_refused_before_anything_is_asked(output: str) -> None:
    done = run_main("certificate", "root", "localhost:1", "-i", "-o", output)
    assert (done.code, done.out) == (1, "")
    assert "output flag must not be empty" in done.err


@pytest.mark.parametrize(
    "address", ["", "http://localhost", "a:b:c", "localhost:0", "localhost:99999", "-", "a b", "[::1", "ho/st"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    done = run_main("status", "-i", "--", address)
    assert done.code == 1
    assert "expected" in done.err or "HOST" in done.err


def test_a_host_where_nobody_answers_is_named() -> None:
    done = run_main("status", "127.0.0.1:1", "-i")
    assert done.code == 1
    assert "nobody answers at 127.0.0.1:1" in done.err


def answering(reply: bytes, tls: ssl.SSLContext | None) -> int:
    """A server on loopback that answers every connection with `reply`; its port."""
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            connection, _ = door.accept()
            with contextlib.suppress(OSError), connection:
                speaking = tls.wrap_socket(connection, server_side=True) if tls else connection
                speaking.recv(65536)
                speaking.sendall(reply)
                speaking.close()

    threading.Thread(target=serve, daemon=True).start()
    return int(door.getsockname()[1])


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 Not Found"),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
            "error: none; is it a coordinator? A coordinator's client",
        ),
        (b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n", "405 No"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "something else than a coordinator's JSON"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}", "broke before a whole answer came"),
        (b"junk\r\n\r\n", "broke before a whole answer came"),
        (b"HTTP/1.1 500 X\r\nContent-Length: 12\r\n\r\n\x1b[2Jcleared!", "\N{REPLACEMENT CHARACTER}[2Jcleared!"),
    ],
)
def test_a_server_that_is_no_coordinator_is_one_line(tls: ssl.SSLContext, reply: bytes, reason: str) -> None:
    done = run_main("manifest", "get", f"localhost:{answering(reply, tls)}", "-i")
    assert done.code == 1
    assert reason in done.err
    assert "\x1b" not in done.err


def test_a_port_without_tls_is_one_line() -> None:
    assert "does that port speak TLS?" in run_main("status", f"localhost:{answering(b'hello', None)}", "-i").err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (KeyError("a secret value"), "a fault of tacit itself (KeyError)"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device", "/some/file"), "/some/file: No space left on device"),
    ],
)
def test_what_nobody_foresaw_is_one_line_too(monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str) -> None:
    monkeypatch.setattr(command_line, "installed_version", lambda _name: (_ for _ in ()).throw(fault))
    done = run_main("version")
    assert done.code == 1
    assert said in done.err
    assert "a secret value" not in done.err


def test_a_fault_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACIT_TRACEBACK", "1")
    monkeypatch.setattr(command_line, "installed_version", lambda _name: {}["nothing"])
    with pytest.raises(KeyError):
        command_line.main(["version"])


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_name: str) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "installed_version", interrupted)
    assert command_line.main(["version"]) == 130
    assert capsys.readouterr().err == "Interrupted.\n"


def test_the_version_is_marbleruns_lines() -> None:
    lines = run_main("version").lines
    assert lines[0].startswith("CLI Version: v")
    assert lines[-1] == "Unable to find MarbleRun Coordinator"


def test_the_version_for_programs_is_json() -> None:
    assert json.loads(run_main("version", "--output", "json").out)["Version"] in run_main("version").out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_verb_too(shell: str) -> None:
    done = run_main("completion", shell)
    assert done.code == 0
    assert "_TACIT_COMPLETE" in done.out


def test_a_shell_that_nobody_knows_has_no_completion() -> None:
    assert "expected bash, zsh or fish" in run_main("completion", "csh").err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_comes_for_each_shell(shell: str) -> None:
    # What started the tests may be no shell, and the library would ask for the one that did.
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run([PROGRAM, "--show-completion", shell], capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "_TACIT_COMPLETE" in done.stdout


def test_a_reader_who_leaves_is_no_fault() -> None:
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{PROGRAM} --help | true"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
