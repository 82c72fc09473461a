"""A disk whose every change is written down, and which can be had again as a cut at any of them would have left it.

    with RecordedDisk(folder) as disk:
        ...                              # the real code, on the real folder
        disk.answer()                    # from here on what was done before has been answered for
    for moment in disk.moments():
        disk.rebuild(moment, elsewhere)

A `Moment` is a point between two changes, or within one, and what of the unsynced changes is lost with it:
`killed`: nothing, the process alone ended; `names`: bytes that were not synced are gone, names count at once;
`nothing`: neither bytes nor names that were not synced are there.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import pytest

Loss = Literal["killed", "names", "nothing"]
REAL = {
    name: getattr(os, name) for name in ("open", "close", "write", "fsync", "fdatasync", "rename", "unlink", "link")
}


@dataclass(frozen=True)
class Moment:
    """After `count` changes and, if `torn`, the first half of the bytes of the next."""

    count: int
    torn: bool
    loss: Loss

    def __str__(self) -> str:
        return f"{self.count}{'+half' if self.torn else ''}-{self.loss}"


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    synced: int = 0


class RecordedDisk:
    """The changes of one folder's files, from an empty one on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.changes: list[tuple[Any, ...]] = []
        self.answers: list[int] = []
        self._paths: dict[int, str] = {}
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in REAL:
            self._patch.setattr(os, name, getattr(self, f"_{name}"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._patch.undo()

    def answer(self) -> None:
        """What was done until here has been answered for."""
        self.answers.append(len(self.changes))

    def answered(self, moment: Moment) -> int:
        """How many answers had been given by then."""
        return sum(count <= moment.count for count in self.answers)

    def moments(self) -> Iterator[Moment]:
        """Every point at which it could have ended."""
        losses: tuple[Loss, ...] = ("killed", "names", "nothing")
        for count in range(len(self.changes) + 1):
            for loss in losses:
                yield Moment(count, torn=False, loss=loss)
            if count < len(self.changes) and self.changes[count][0] == "write":
                yield Moment(count, torn=True, loss="killed")

    def rebuild(self, moment: Moment, target: Path) -> None:
        """The folder as it would be found."""
        names: dict[str, _File] = {}
        durable: dict[str, _File] = {}
        changes = self.changes[: moment.count]
        if moment.torn:
            kind, name, data = self.changes[moment.count]
            changes = [*changes, (kind, name, data[: max(len(data) // 2, 1)])]
        for kind, *rest in changes:
            durable = _apply(names, durable, kind, *rest)
        for name, file in (durable if moment.loss == "nothing" else names).items():
            content = file.content if moment.loss == "killed" else file.content[: file.synced]
            (target / name).write_bytes(content)
            (target / name).chmod(0o600)

    # ---- what stands in the place of the system's calls

    def _name(self, path: Any) -> str | None:
        place = Path(os.fspath(path))
        return place.name if place.parent == self.folder else None

    def _open(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        created = flags & os.O_CREAT and not os.path.lexists(path)
        file: int = REAL["open"](path, flags, *rest, **more)
        name = self._name(path)
        if Path(os.fspath(path)) == self.folder:
            self._paths[file] = "."
        elif name is not None and flags & (os.O_WRONLY | os.O_RDWR):
            self._paths[file] = name
            if created:
                self.changes.append(("create", name))
        return file

    def _close(self, file: int) -> None:
        self._paths.pop(file, None)
        REAL["close"](file)

    def _write(self, file: int, data: Any) -> int:
        done: int = REAL["write"](file, data)
        if file in self._paths:
            # By what the descriptor is now: the file may have another name than when it was opened.
            name = Path(os.readlink(f"/proc/self/fd/{file}")).name
            self.changes.append(("write", name, bytes(data[:done])))
        return done

    def _fsync(self, file: int) -> None:
        if file in self._paths:
            place = "." if self._paths[file] == "." else Path(os.readlink(f"/proc/self/fd/{file}")).name
            self.changes.append(("sync", place))

    _fdatasync = _fsync

    def _rename(self, old: Any, new: Any, **_: Any) -> None:
        REAL["rename"](old, new)
        if (name := self._name(new)) is not None:
            self.changes.append(("rename", self._name(old), name))

    def _unlink(self, path: Any, **_: Any) -> None:
        REAL["unlink"](path)
        if (name := self._name(path)) is not None:
            self.changes.append(("unlink", name))

    def _link(self, old: Any, new: Any, **_: Any) -> None:
        REAL["link"](old, new)
        if (name := self._name(new)) is not None:
            self.changes.append(("link", self._name(old), name))


def _apply(names: dict[str, _File], durable: dict[str, _File], kind: str, *rest: Any) -> dict[str, _File]:
    """One change; the names that are on the disk after it."""
    match kind, rest:
        case "create", (name,):
            names[name] = _File()
        case "write", (name, data):
            names[name].content += data
        case "sync", (".",):
            return dict(names)
        case "sync", (name,):
            names[name].synced = len(names[name].content)
        case "rename", (old, new):
            names[new] = names.pop(old)
        case "unlink", (name,):
            del names[name]
        case "link", (old, new):
            names[new] = names[old]
    return durable


class FailingDisk:
    """A disk that refuses its n-th change, half done where it is a write, and takes the next ones again."""

    def __init__(self, at: int, error: int) -> None:
        self.left = at
        self.failed = False
        self._error = error
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> Self:
        for name in ("write", "fsync", "fdatasync", "rename", "link"):
            self._patch.setattr(os, name, self._guarded(name))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._patch.undo()

    def _guarded(self, name: str) -> Any:
        def change(*given: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.failed = True
                if name == "write":
                    REAL["write"](given[0], given[1][: len(given[1]) // 2])
                if name == "fsync" and stat.S_ISDIR(os.fstat(given[0]).st_mode):
                    REAL["fsync"](given[0])
                raise OSError(self._error, os.strerror(self._error))
            return None if "sync" in name else REAL[name](*given, **more)

        return change
