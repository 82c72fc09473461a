"""What we write, read by TensorFlow itself, in the environment that TACIT_TENSORFLOW_PYTHON names."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fakes.graphs import softmax_graph
from tacit.graph import build_saved_model, parse_graph
from tacit.graph.resnet50 import iter_resnet50
from tacit.serving.engines.openvino import open_core

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "TACIT_TENSORFLOW_PYTHON" not in os.environ,
        reason="TACIT_TENSORFLOW_PYTHON names no interpreter; `make tensorflow` makes one",
    ),
]

# Runs in the other environment: loads the SavedModel as TensorFlow users do, and answers the numbers given to it.
PROGRAM = """
import sys
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
serving = model.signatures["serving_default"]
print(sorted(serving.structured_input_signature[1]), sorted(serving.structured_outputs))
x = np.load(sys.argv[2])
np.save(sys.argv[3], serving(input=tf.constant(x))["predict"].numpy())
"""


def predict_in_tensorflow(saved_model: Path, x: np.ndarray, work: Path) -> tuple[np.ndarray, str]:
    np.save(work / "x.npy", x)
    done = subprocess.run(
        [os.environ["TACIT_TENSORFLOW_PYTHON"], "-c", PROGRAM, saved_model, work / "x.npy", work / "y.npy"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(work / "y.npy"), done.stdout


def predict_in_openvino(saved_model: Path, x: np.ndarray) -> np.ndarray:
    core = open_core()
    compiled = core.compile_model(core.read_model(saved_model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled(x)[0]


def write_saved_model(folder: Path, raw: bytes) -> Path:
    folder.mkdir()
    model = build_saved_model(parse_graph(raw), inputs=["input"], outputs=["predict"])
    (folder / "saved_model.pb").write_bytes(model)
    return folder


def test_tensorflow_loads_a_converted_graph_and_agrees(tmp_path: Path) -> None:
    folder = write_saved_model(tmp_path / "1", softmax_graph())
    x = np.linspace(-2, 2, 20, dtype=np.float32).reshape(5, 4)
    answer, signature = predict_in_tensorflow(folder, x, tmp_path)
    assert signature.split("\n")[0] == "['input'] ['predict']"
    np.testing.assert_allclose(answer, predict_in_openvino(folder, x), atol=1e-6)


def test_tensorflow_runs_the_made_resnet50_and_agrees(tmp_path: Path) -> None:
    folder = write_saved_model(tmp_path / "1", b"".join(iter_resnet50(seed=7)))
    x = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.float32)
    answer, _ = predict_in_tensorflow(folder, x, tmp_path)
    assert answer.shape == (2, 1001)
    np.testing.assert_allclose(answer, predict_in_openvino(folder, x), rtol=1e-3, atol=1e-6)
