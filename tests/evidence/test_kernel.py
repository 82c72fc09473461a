"""The calls themselves: one write is one write, what an opening gives is read to its end, and errors stay the system's."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tacit.evidence.issue import kernel
from tacit.evidence.issue.kernel import LINUX


def test_a_file_that_gives_little_at_a_time_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    def give() -> None:
        with pipe.open("wb", buffering=0) as out:
            for number in range(200):
                out.write(bytes((number,)) * 7)

    giver = Thread(target=give)
    giver.start()
    assert LINUX.read(pipe, limit=1400) == b"".join(bytes((number,)) * 7 for number in range(200))
    giver.join()


def test_a_file_that_gives_too_much_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1001))
    with pytest.raises(OSError, match="more than 1000 bytes"):
        LINUX.read(tmp_path / "file", limit=1000)
    with pytest.raises(OSError, match="more than"):
        LINUX.read(Path("/dev/zero"), limit=1 << 20)


def test_what_is_written_arrives_as_one_piece(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    pieces: list[bytes] = []

    def take() -> None:
        descriptor = os.open(pipe, os.O_RDONLY)
        pieces.append(os.read(descriptor, 1000))
        os.close(descriptor)

    taker = Thread(target=take)
    taker.start()
    assert LINUX.write(pipe, bytes(64)) == 64
    taker.join()
    assert pieces == [bytes(64)]


def test_writing_makes_no_file_where_none_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LINUX.write(tmp_path / "none", b"x")
    assert not (tmp_path / "none").exists()
    assert not LINUX.exists(tmp_path / "none")
    assert not LINUX.exists(Path("/dev/null/below"))


def test_folders_are_made_and_removed(tmp_path: Path) -> None:
    LINUX.make_folder(tmp_path / "entry")
    assert LINUX.exists(tmp_path / "entry")
    with pytest.raises(FileExistsError):
        LINUX.make_folder(tmp_path / "entry")
    LINUX.remove_folder(tmp_path / "entry")
    assert not LINUX.exists(tmp_path / "entry")


def test_a_device_without_such_a_request_says_so() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOTTY)):
        LINUX.control(Path("/dev/null"), 0xC0205300, bytearray(32))


# ---- the host, over a socket of this machine in place of vsock


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()

    class Connected:
        AF_VSOCK = SOCK_STREAM = 0

        def socket(self, *_: int) -> "Connected":
            return self

        def connect(self, address: tuple[int, int]) -> None:
            assert address == (2, 4050)

        def __enter__(self) -> "Connected":
            return self

        def __exit__(self, *_: object) -> None:
            ours.close()

        def __getattr__(self, name: str) -> object:
            return getattr(ours, name)

    monkeypatch.setattr(kernel, "socket", Connected())
    with theirs:
        yield theirs
    ours.close()


def test_a_question_to_the_host_has_its_length_before_it_and_so_has_the_answer(host: socket.socket) -> None:
    def answer() -> None:
        (size,) = struct.unpack(">I", host.recv(4))
        asked = host.recv(size)
        for piece in (b"\0\0", b"\0\4", asked[:1], asked[1:]):
            host.sendall(piece)

    other = Thread(target=answer)
    other.start()
    assert LINUX.ask_host(4050, b"what", limit=100) == b"what"
    other.join()


@pytest.mark.parametrize(
    ("sent", "match"),
    [(b"\0\0\1\0", "256 bytes, of which 100"), (b"\0\0\0\4ab", "after 2 of 4"), (b"\0", "after 1 of 4")],
)
def test_t13_an_answer_that_is_too_long_or_cut_is_refused(host: socket.socket, sent: bytes, match: str) -> None:
    host.sendall(sent)
    host.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=match):
        LINUX.ask_host(4050, b"what", limit=100)
