"""The files that make a model of which one file was named."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tacit.errors import FileInputError
from tacit.vault.capsule import Source
from tacit.vault.files import list_sources

_SAVED_MODEL = "saved_model.pb"
_SAVED_MODEL_FOLDERS = ("variables", "assets", "assets.extra")
_ONNX_DATA = (".data", "_data")  # how exporters name the weights of an ONNX model that is larger than 2 GiB


def main_file(model: Path) -> Path:
    """The file that a model begins with: of an OpenVINO IR the `.xml`, whichever of its two was named."""
    if model.suffix == ".bin" and model.with_suffix(".xml").is_file():
        return model.with_suffix(".xml")
    return model


def list_model(model: Path) -> Sequence[Source]:
    """The files of a folder, or a file with what lies beside it and belongs to it: weights, variables, assets.

    Raises:
        FileInputError: something cannot be read, or an OpenVINO IR has no weights.
        CapsuleIndexError: a link, a device or an unusable name among the files, or none at all.
    """
    file = main_file(model)
    sources = list_sources(file)
    if file.is_dir():
        return sources
    if file.suffix == ".xml":
        weights = file.with_suffix(".bin")
        if not weights.exists():
            raise FileInputError(f"{file} has no weights beside it; an OpenVINO IR needs {weights.name}")
        return [*list_sources(weights), *sources]
    if file.name == _SAVED_MODEL:
        beside = [folder for name in _SAVED_MODEL_FOLDERS if (folder := file.parent / name).is_dir()]
        found = (
            _below(folder, source) for folder in beside if any(folder.iterdir()) for source in list_sources(folder)
        )
        return [*sources, *found]
    data = [path for end in _ONNX_DATA if (path := file.with_name(file.name + end)).is_file()]
    return [*sources, *(source for path in data for source in list_sources(path))]


def _below(folder: Path, source: Source) -> Source:
    return replace(source, name=f"{folder.name}/{source.name}")
