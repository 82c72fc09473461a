"""From a frozen graph to a SavedModel that servers take, and a graph made from nothing."""

from collections.abc import Sequence
from pathlib import Path

from tacit.cli.model.files import load_file, refuse_existing, replacing
from tacit.cli.model.progress import Advance
from tacit.errors import ModelFormatError
from tacit.graph import build_saved_model, parse_dtype, parse_graph
from tacit.graph.graphdef import MAX_MODEL_BYTES

SAVED_MODEL = "saved_model.pb"
RESNET50_BYTES = 102_503_551  # of the made graph; only the progress bar relies on it


def split_list(text: str) -> list[str]:
    """The names in `a,b, c`."""
    return [word.strip() for word in text.split(",") if word.strip()]


def convert(
    graph_file: Path, folder: Path, *, inputs: Sequence[str], outputs: Sequence[str], dtypes: str, force: bool
) -> Path:
    """Write `folder`/saved_model.pb from a frozen graph and give its path.

    Raises: FileInputError, ModelFormatError.
    """
    target = folder / SAVED_MODEL
    refuse_existing(target, force=force)
    try:
        graph = parse_graph(load_file(graph_file, what="a frozen TensorFlow graph (.pb)", largest=MAX_MODEL_BYTES))
        model = build_saved_model(
            graph, inputs=inputs, outputs=outputs, dtypes=[parse_dtype(name) for name in split_list(dtypes)]
        )
    except ModelFormatError as exc:
        raise ModelFormatError(f"{graph_file}: {exc}") from exc
    with replacing(target) as out:
        out.write(model)
    return target


def make_resnet50(path: Path, *, seed: int, force: bool, progress: Advance) -> int:
    """Write the frozen graph of a ResNet-50 v1.5 with seeded weights and give its size in bytes.

    Raises: FileInputError.
    """
    from tacit.graph.resnet50 import iter_resnet50

    refuse_existing(path, force=force)
    size = 0
    with replacing(path) as out:
        for piece in iter_resnet50(seed=seed):
            size += out.write(piece)
            progress(size, RESNET50_BYTES)
    return size
