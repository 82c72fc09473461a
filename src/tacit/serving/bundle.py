"""A model's files, wherever they lie: a folder, a capsule or one decrypted file, and what kind of model they make.

The kind follows from the files' names alone; nothing is opened to guess.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Protocol

from tacit.errors import FileInputError, ModelFormatError

_AS_TEXT = "saved_model.pbtxt"


class Kind(StrEnum):
    """What an engine is given to read."""

    SAVED_MODEL = "SavedModel"
    GRAPH = "frozen GraphDef"
    ONNX = "ONNX"
    IR = "OpenVINO IR"
    TFLITE = "TensorFlow Lite"


class Bundle(Protocol):
    """Names and contents of a model's files. Every content was verified before it is handed out."""

    @property
    def names(self) -> Sequence[str]:
        """Relative names with `/` between their parts."""

    @property
    def place(self) -> Path | None:
        """The folder where the files lie unencrypted and may be read in place; None if they are only in memory."""

    def read(self, name: str) -> bytes | bytearray | memoryview:
        """One file's content."""

    def size(self, name: str) -> int:
        """One file's size in bytes."""

    def read_into(self, name: str, target: memoryview) -> None:
        """One file's content into memory of its size; where this raises, what lies there is not to be used."""

    def close(self) -> None:
        """Nothing will be read any more."""


@dataclass(frozen=True, slots=True)
class FolderBundle:
    """Plain files, read in place."""

    place: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """One file's content."""
        return (self.place / name).read_bytes()

    def size(self, name: str) -> int:
        """One file's size in bytes."""
        return (self.place / name).stat().st_size

    def read_into(self, name: str, target: memoryview) -> None:
        """One file's content into memory of its size. Raises: FileInputError when it has changed meanwhile."""
        with (self.place / name).open("rb") as file:
            if file.readinto(target) != len(target) or file.read(1):
                raise FileInputError(
                    f"{self.place / name} changed while it was read; it is read again once it is whole"
                )

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class MemoryBundle:
    """Files that are in memory already."""

    contents: Mapping[str, bytes | bytearray | memoryview]
    place: None = None

    @property
    def names(self) -> Sequence[str]:
        """Relative names."""
        return tuple(self.contents)

    def read(self, name: str) -> bytes | bytearray | memoryview:
        """One file's content."""
        return self.contents[name]

    def size(self, name: str) -> int:
        """One file's size in bytes."""
        return len(self.contents[name])

    def read_into(self, name: str, target: memoryview) -> None:
        """One file's content into memory of its size."""
        target[:] = self.contents[name]

    def close(self) -> None:
        """Nothing is held open."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The kind of a model and its entry file; `root` is the folder prefix of all that belongs to it ("" or "a/")."""

    kind: Kind
    entry: str
    root: str


def recognise(names: Sequence[str]) -> Layout:
    """What kind of model these files make.

    Raises:
        ModelFormatError: none, or more than one.
    """
    for name in names:
        check_name(name)
    entries = [entry for entry in map(_entry, names) if entry is not None]
    if any(kind is Kind.SAVED_MODEL for kind, _ in entries):
        # A SavedModel's folder may hold graphs and models among its assets.
        entries = [entry for entry in entries if entry[0] is Kind.SAVED_MODEL]
    if not entries and (text := next((name for name in names if PurePosixPath(name).name == _AS_TEXT), None)):
        raise ModelFormatError(
            f"{text} is a SavedModel written as text, which is not read here; export it as saved_model.pb, in binary form"
        )
    if len(entries) != 1:
        found = ", ".join(sorted(names)[:8]) or "nothing"
        problem = "no model" if not entries else f"{len(entries)} models"
        raise ModelFormatError(
            f"{problem} among these files: {found}. "
            "Expected one saved_model.pb, one .pb (frozen graph), one .onnx, one .tflite, or one .xml with its .bin"
        )
    kind, entry = entries[0]
    if kind is Kind.IR and weights_of(entry) not in names:
        raise ModelFormatError(f"{entry} has no weights beside it; expected {weights_of(entry)}")
    head, slash, _ = entry.rpartition("/")
    return Layout(kind, entry, head + slash)


def weights_of(entry: str) -> str:
    """The file with the weights of an IR."""
    return entry.removesuffix(".xml") + ".bin"


def check_name(name: str) -> None:
    """Refuse a name that could lead out of a folder.

    Raises:
        ModelFormatError: absolute, empty, or with parts like `..`.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or any(part in (".", "..") for part in parts):
        raise ModelFormatError(f"{name!r} is no relative name of a model's file")


def _entry(name: str) -> tuple[Kind, str] | None:
    plain = PurePosixPath(name).name
    if plain.startswith("."):
        return None
    if plain == "saved_model.pb":
        return Kind.SAVED_MODEL, name
    kinds = {".pb": Kind.GRAPH, ".onnx": Kind.ONNX, ".xml": Kind.IR, ".tflite": Kind.TFLITE}
    kind = kinds.get(PurePosixPath(plain).suffix)
    if kind is Kind.GRAPH and plain in ("fingerprint.pb", "keras_metadata.pb"):
        return None
    return (kind, name) if kind else None
