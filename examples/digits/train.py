"""A classifier for handwritten digits, trained on real scans, exported to ONNX."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from skl2onnx.helpers.onnx_helper import select_model_inputs_outputs
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier


@dataclass(frozen=True)
class Digits:
    """The trained model's file, and what was held back: images (n, 64) float32 from 0 to 16, labels (n,) int64."""

    model: Path
    images: np.ndarray
    labels: np.ndarray
    plain_predictions: np.ndarray
    """What the plain model says about the held-back images, (n,) int64."""

    @property
    def plain_accuracy(self) -> float:
        return float((self.plain_predictions == self.labels).mean())


def train(folder: Path) -> Digits:
    """Train on three quarters of the scans, write `digits.onnx` into `folder`, and keep the rest for questions."""
    images, labels = load_digits(return_X_y=True)
    seen, held_back, seen_labels, held_back_labels = train_test_split(
        images.astype(np.float32), labels.astype(np.int64), test_size=0.25, random_state=7, stratify=labels
    )
    classifier = MLPClassifier(hidden_layer_sizes=(64,), random_state=7, max_iter=300, early_stopping=True)
    classifier.fit(seen, seen_labels)
    model = folder / "digits.onnx"
    # zipmap would turn the probabilities into a list of dictionaries, which no tensor protocol carries; and looking up
    # the label needs an operator that only scikit-learn's exporter knows. The largest probability says the same.
    exported = to_onnx(classifier, seen[:1], options={"zipmap": False}, target_opset=17)
    exported = select_model_inputs_outputs(exported, outputs=["probabilities"])
    model.write_bytes(exported.SerializeToString())
    return Digits(model, held_back, held_back_labels, classifier.predict(held_back).astype(np.int64))


if __name__ == "__main__":
    digits = train(Path.cwd())
    print(f"{digits.model}: {digits.plain_accuracy:.1%} of {len(digits.labels)} held-back digits")
