"""The files of the model that somebody named: found, looked at from outside, and encrypted into a capsule.

Names and sizes are judged here, and of an ONNX file its inputs. Whether the content is a model says the engine, in the
server.
"""

import mmap
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tacit.cli.model.progress import Advance
from tacit.errors import FileInputError, InputError, ModelFormatError
from tacit.vault import CapsuleInfo
from tacit.vault.capsule import Source, write_capsule
from tacit.vault.files import list_sources, require_space

_WANTED = "give an ONNX file, a SavedModel folder, a frozen graph (.pb) or an OpenVINO IR (.xml with its .bin)"
_SUFFIXES = (".onnx", ".pb", ".xml")
_SAVED_MODEL = "saved_model.pb"
_SAVED_MODEL_FOLDERS = ("variables", "assets", "assets.extra")
_ONNX_DATA = (".data", "_data")  # how exporters name the weights of an ONNX model that is larger than 2 GiB


def find_model(model: Path) -> Sequence[Source]:
    """The files that make the model at `model`: what lies beside a single file and belongs to it comes along.

    Raises:
        FileInputError: nothing there, nothing in it, or plainly not a model.
        CapsuleIndexError: a folder with links or devices in it.
    """
    try:
        sources = _of_folder(model) if model.is_dir() else _of_file(model)
    except (OSError, ValueError) as exc:  # a name that the system refuses, say
        raise FileInputError(f"{model}: {getattr(exc, 'strerror', None) or exc}; {_WANTED}") from exc
    empty = [source.name for source in sources if source.size == 0 and source.name.endswith(_SUFFIXES)]
    if empty:
        raise FileInputError(
            f"{model}: the file is empty; {_WANTED}"
            if len(sources) == 1
            else f"{model}: {empty[0]} is empty; {_WANTED}"
        )
    return sources


def check_content(sources: Sequence[Source]) -> None:
    """Refuse what the server could not serve either, where that can be told before anything is started.

    Raises: ModelFormatError.
    """
    for source in sources:
        if not source.name.endswith(".onnx"):
            continue
        with (
            source.open() as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as content,
        ):
            _check_onnx(source.name, content)


def _check_onnx(name: str, content: memoryview) -> None:
    from tacit.graph.onnx import string_inputs  # brings numpy, which no other command should wait for

    try:
        texts = string_inputs(content)
    except ModelFormatError as exc:
        reason = str(exc)  # and not the error, whose frames hold on to the mapped file
    else:
        reason = f"string inputs are not served: {', '.join(texts)}" if texts else ""
    if reason:
        raise ModelFormatError(f"{name}: {reason}; {_WANTED}")


def seal_model(
    sources: Sequence[Source], capsule: Path, key: bytes, *, name: str, version: int, progress: Advance
) -> CapsuleInfo:
    """Encrypt the files into a new capsule, readable for its owner alone.

    Raises:
        FileInputError: something cannot be read or written, or there is no room for it.
        VaultError: names that no capsule can hold.
    """
    require_space(capsule.parent, sources)
    try:
        descriptor = os.open(capsule, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            return write_capsule(out, sources, key, name=name, version=version, progress=progress)
    except OSError as exc:
        raise FileInputError(
            f"cannot encrypt into {exc.filename or capsule}: {exc.strerror}; TMPDIR chooses another place"
        ) from exc


def _of_folder(folder: Path) -> Sequence[Source]:
    sources = list_sources(folder)
    if not any(source.name.endswith(_SUFFIXES) for source in sources):
        found = ", ".join(source.name for source in sources[:4])
        raise FileInputError(f"{folder} holds no model, only {found}; {_WANTED}")
    return sources


def _of_file(file: Path) -> Sequence[Source]:
    if not file.exists():
        raise FileInputError(f"{file} does not exist; {_WANTED}")
    if file.suffix == ".capsule":
        raise InputError(f"{file} is encrypted already, and only its owner has the key; give the plain model")
    if file.suffix == ".bin" and file.with_suffix(".xml").exists():
        file = file.with_suffix(".xml")
    if file.suffix not in _SUFFIXES:
        raise FileInputError(f"{file} has not the name of a model; {_WANTED}")
    sources = list_sources(file)
    if file.suffix == ".xml":
        weights = file.with_suffix(".bin")
        if not weights.exists():
            raise FileInputError(f"{file} has no weights beside it; an OpenVINO IR needs {weights.name}")
        return [*list_sources(weights), *sources]
    if file.name == _SAVED_MODEL:
        beside = [folder for name in _SAVED_MODEL_FOLDERS if (folder := file.parent / name).is_dir()]
        return [*sources, *(_below(folder, source) for folder in beside for source in list_sources(folder))]
    data = [path for end in _ONNX_DATA if (path := file.with_name(file.name + end)).is_file()]
    return [*sources, *(source for path in data for source in list_sources(path))]


def _below(folder: Path, source: Source) -> Source:
    return replace(source, name=f"{folder.name}/{source.name}")
