"""What `tacit up` is made of: the model's files, free ports, signals, logs, examples."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes import models
from fakes.command_line import run_main
from tacit.cli.up.examples import settle_sizes
from tacit.cli.up.interrupts import Interrupts
from tacit.cli.up.ports import reserved_ports
from tacit.cli.up.processes import Programs
from tacit.cli.up.source import check_content, find_model, seal_model
from tacit.client.inference import Signature, TensorSpec
from tacit.errors import CapsuleIndexError, ConnectError, FileInputError, InputError, RequestError, Status, TacitError
from tacit.vault.files import open_capsule

# ---- the model's files


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content of " + name.encode())
    return folder


def names_of(model: Path) -> list[str]:
    return sorted(source.name for source in find_model(model))


def test_what_belongs_to_a_single_file_comes_along(tmp_path: Path) -> None:
    make(tmp_path, "m.onnx", "m.onnx.data", "other.onnx", "ir.xml", "ir.bin", "graph.pb")
    assert names_of(tmp_path / "m.onnx") == ["m.onnx", "m.onnx.data"]
    assert names_of(tmp_path / "ir.xml") == names_of(tmp_path / "ir.bin") == ["ir.bin", "ir.xml"]
    assert names_of(tmp_path / "graph.pb") == ["graph.pb"]


def test_a_saved_models_file_stands_for_its_folder_and_nothing_else_there(tmp_path: Path) -> None:
    make(tmp_path, "saved_model.pb", "variables/variables.index", "assets/vocab.txt", "private/diary.txt")
    assert names_of(tmp_path / "saved_model.pb") == ["assets/vocab.txt", "saved_model.pb", "variables/variables.index"]


def test_a_folder_is_taken_whole(tmp_path: Path) -> None:
    assert names_of(make(tmp_path, "1/saved_model.pb", "1/variables/variables.index")) == [
        "1/saved_model.pb",
        "1/variables/variables.index",
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.onnx", "does not exist"),
        ("notes.txt", "has not the name of a model"),
        ("m.capsule", "encrypted already"),
        ("lonely.xml", "no weights beside it"),
        ("empty.onnx", "empty.onnx: the file is empty"),
        ("folder", "holds no model, only readme.txt"),
        ("nothing", "no file in it"),
        ("pipe.onnx", "neither a file nor a folder"),
        ("x" * 300 + ".onnx", "too long"),
        ("a\0b.onnx", "does not exist"),
    ],
)
def test_what_is_plainly_no_model_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    make(tmp_path, "notes.txt", "m.capsule", "lonely.xml", "folder/readme.txt")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "nothing").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises((InputError, CapsuleIndexError), match=reason) as refusal:
        find_model(tmp_path / name)
    assert "\n" not in str(refusal.value)


def test_the_command_refuses_it_before_anything_is_started(tmp_path: Path) -> None:
    done = run_main("up", tmp_path / "missing.onnx")
    assert (done.code, done.out) == (1, "")
    assert "give an ONNX file, a SavedModel folder" in done.err


def test_a_model_of_text_or_none_at_all_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    for name, content, reason in (
        ("text.onnx", models.onnx_identity(8), "text.onnx: string inputs are not served: x"),
        ("page.onnx", b"<html>" * 100, "page.onnx: not an ONNX model"),
        ("short.onnx", b"\x08\x09", "short.onnx: not an ONNX model: it holds no graph"),
    ):
        (tmp_path / name).write_bytes(content)
        done = run_main("up", tmp_path / name)
        assert (done.code, done.out) == (1, "")
        assert reason in done.err


def test_a_model_of_numbers_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(models.onnx_model())
    check_content(find_model(tmp_path / "m.onnx"))


# ---- sizes of an example


def takes(*least: int) -> Callable[[Mapping[str, Any]], None]:
    """A model that refuses inputs with a size below `least`, dimension by dimension."""

    def ask(inputs: Mapping[str, Any]) -> None:
        if any(have < wanted for array in inputs.values() for have, wanted in zip(array.shape, least, strict=True)):
            raise RequestError(Status.INVALID_ARGUMENT, "the model does not take these shapes")

    return ask


@pytest.mark.parametrize(
    ("free", "least", "found"),
    [
        ((-1, 3, -1, -1), (1, 3, 3, 3), (1, 3, 8, 8)),
        ((-1, 3, -1, -1), (1, 3, 100, 100), (1, 3, 224, 224)),
        ((-1, 4), (1, 4), (1, 4)),
        ((-1, -1), (3, 3), (8, 8)),
        ((-1, -1), (1000, 1000), (1, 1)),
    ],
)
def test_the_sizes_of_an_example_are_such_as_the_model_takes(
    free: tuple[int, ...], least: tuple[int, ...], found: tuple[int, ...]
) -> None:
    settled = settle_sizes(Signature({"x": TensorSpec(1, free)}, {}), takes(*least))
    assert settled.inputs["x"].shape == found


def test_a_name_that_cannot_be_served_is_refused(tmp_path: Path) -> None:
    done = run_main("up", make(tmp_path, "m.onnx") / "m.onnx", "--name", "a/b")
    assert (done.code, done.out) == (1, "")
    assert "choose one with --name" in done.err


def test_the_capsule_is_its_owners_alone_and_opens_with_the_key(tmp_path: Path) -> None:
    sources = find_model(make(tmp_path, "m.onnx") / "m.onnx")
    steps: list[tuple[int, int]] = []
    capsule, key = tmp_path / "m.capsule", bytes(32)
    info = seal_model(sources, capsule, key, name="m", version=1, progress=lambda done, all: steps.append((done, all)))
    assert capsule.stat().st_mode & 0o777 == 0o600
    assert steps[-1][0] == steps[-1][1] == sources[0].size
    with open_capsule(capsule, key) as opened:
        assert opened.info.id == info.id
        assert bytes(opened.read("m.onnx")) == b"content of m.onnx"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    sources = find_model(make(tmp_path, "m.onnx") / "m.onnx")
    with pytest.raises(FileInputError, match="cannot write to"):
        seal_model(sources, tmp_path / "no" / "m.capsule", bytes(32), name="m", version=1, progress=lambda *_: None)


# ---- ports


@contextlib.contextmanager
def listening(family: socket.AddressFamily, address: str) -> Iterator[int]:
    with socket.socket(family, socket.SOCK_STREAM) as taken:
        taken.bind((address, 0))
        taken.listen()
        yield taken.getsockname()[1]


@contextlib.contextmanager
def listening_at(port: int) -> Iterator[None]:
    with socket.socket() as own:
        own.bind(("127.0.0.1", port))
        own.listen()
        yield


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]
)
def test_a_port_in_use_is_replaced(family: socket.AddressFamily, address: str) -> None:
    with listening(family, address) as taken, reserved_ports([taken]) as (chosen,):
        assert chosen != taken


def is_kept(port: int) -> bool:
    """Whether it is given to who asks for it."""
    with reserved_ports([port]) as (given,):
        return given == port


def test_a_free_port_is_kept_and_one_to_avoid_is_not() -> None:
    for _ in range(3):  # any process of this machine may take one that is free
        with reserved_ports([0]) as (free,):
            pass
        if kept := is_kept(free):
            break
    assert kept
    with reserved_ports([free], avoid={free}) as chosen:
        assert chosen != (free,)


def test_no_port_is_chosen_twice() -> None:
    with reserved_ports([0] * 20) as chosen:
        assert len(set(chosen)) == 20


def test_a_port_that_is_given_to_one_who_has_yet_to_listen_is_not_given_to_another() -> None:
    for _ in range(3):  # any process of this machine may take one that is free again
        with reserved_ports([0]) as (given,):
            with reserved_ports([given]) as (other,):
                assert other != given
            with listening_at(given):  # the other's choice did not touch it
                pass
        if kept := is_kept(given):
            break
    assert kept


def test_a_reservation_ends_with_its_process() -> None:
    script = (
        "import sys\nfrom tacit.cli.up.ports import reserved_ports\n"
        "with reserved_ports([0]) as (port,):\n    print(port, flush=True)\n    sys.stdin.read()"
    )
    for _ in range(3):  # any process of this machine may take one that is free again
        holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        with holder:
            assert holder.stdout is not None
            port = int(holder.stdout.readline())
            with reserved_ports([port]) as (other,):
                assert other != port
            holder.kill()
        if kept := is_kept(port):
            break
    assert kept


# ---- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_interrupts_and_the_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_waits_for_the_end_of_a_held_block() -> None:
    done = []

    def work(interrupts: Interrupts) -> None:
        with interrupts.held():
            signal.raise_signal(signal.SIGTERM)
            done.append("the block")

    with Interrupts() as interrupts, pytest.raises(KeyboardInterrupt):
        work(interrupts)
    assert done == ["the block"]


def test_a_second_signal_does_not_cut_the_ending_short() -> None:
    with Interrupts():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)


def test_a_closed_terminal_is_ignored_where_nohup_asks_for_it() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- programs


def script(text: str) -> list[str]:
    return [sys.executable, "-c", f"import json, os, signal, sys, time\n{text}"]


def test_all_programs_end_when_the_block_is_left_in_the_opposite_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    text = (
        "def end(*_):\n open(sys.argv[1], 'a').write(sys.argv[2])\n sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up', flush=True)\ntime.sleep(600)"
    )
    with Programs(tmp_path / "logs") as programs:
        for name in ("a", "b"):
            program = programs.start(name, [*script(text), str(order), name], env=dict(os.environ))
            program.wait_until(lambda program=program: program.says("up"), seconds=100)  # type: ignore[misc]  # mypy infers no lambda with a default
    assert order.read_text() == "ba"


def test_a_program_that_ends_too_early_is_named_with_its_last_word(tmp_path: Path) -> None:
    said = json.dumps({"level": "error", "error": "the port is taken"})
    with Programs(tmp_path) as programs:
        program = programs.start("coordinator", script(f"print('''{said}''')\nsys.exit(3)"), env=dict(os.environ))
        with pytest.raises(ConnectError) as refusal:
            program.wait_until(lambda: False, seconds=100)
    assert str(refusal.value) == "the coordinator ended with code 3: the port is taken"


@pytest.mark.parametrize(
    ("number", "said"), [(9, "by SIGKILL, as the system ends what takes too much memory"), (15, "by signal 15")]
)
def test_a_program_that_a_signal_ended_is_told_so(tmp_path: Path, number: int, said: str) -> None:
    with Programs(tmp_path) as programs:
        program = programs.start("server", script(f"os.kill(os.getpid(), {number})"), env=dict(os.environ))
        with pytest.raises(ConnectError, match=f"the server ended {said}: it said nothing"):
            program.wait_until(lambda: False, seconds=20)


def test_a_part_that_is_not_installed_is_named_with_the_fix(tmp_path: Path) -> None:
    with Programs(tmp_path) as programs:
        program = programs.start("server", script("import no_such_engine"), env=dict(os.environ))
        with pytest.raises(ConnectError, match="No module named 'no_such_engine'; pip install"):
            program.wait_until(lambda: False, seconds=100)


def test_premains_mark_is_left_out_of_its_last_word(tmp_path: Path) -> None:
    with Programs(tmp_path) as programs:
        said = "[PreMain] 2026/11/24 14:05:20 Error: refused"
        program = programs.start("server", script(f"print('{said}')"), env=dict(os.environ))
        program.wait_for_end(seconds=100)
    assert program.last_word() == "refused"


def test_a_program_that_is_never_ready_is_named(tmp_path: Path) -> None:
    with Programs(tmp_path) as programs, pytest.raises(ConnectError, match="was not ready after 0 s"):
        programs.start("server", script("time.sleep(600)"), env=dict(os.environ)).wait_until(lambda: False, seconds=0.1)


def test_a_program_that_is_not_installed_is_refused_with_the_fix(tmp_path: Path) -> None:
    with Programs(tmp_path) as programs, pytest.raises(TacitError, match="pip install"):
        programs.start("server", ["/nowhere/tacit-premain"], env={})


def test_a_program_that_starts_while_a_signal_comes_is_ended_too(tmp_path: Path) -> None:
    started: list[int] = []

    def work() -> None:
        with Interrupts() as interrupts, Programs(tmp_path, interrupts) as programs:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
            while len(started) < 50:
                started.append(programs.start("sleeper", script("time.sleep(600)"), env=dict(os.environ)).pid)
            time.sleep(60)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert started
    for pid in started:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
