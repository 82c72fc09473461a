"""Run by TensorFlow's own interpreter: writes the models that TensorFlow Serving tests itself with."""

import sys
from pathlib import Path

import tensorflow as tf
from tensorflow.python.saved_model import signature_def_utils

v1 = tf.compat.v1


def half_plus(folder: Path, add: float) -> None:
    """`y = 0.5 x + add`, of floats and of serialized examples."""
    info = v1.saved_model.utils.build_tensor_info
    with v1.Graph().as_default(), v1.Session() as session:
        half, added = v1.Variable(0.5, name="a"), v1.Variable(add, name="b")
        examples = v1.placeholder(tf.string, name="tf_example")
        features = {
            "x": v1.FixedLenFeature([1], tf.float32),
            "x2": v1.FixedLenFeature([1], tf.float32, default_value=[0.0]),
        }
        parsed = v1.parse_example(examples, features)
        x = tf.identity(parsed["x"], name="x")
        y = tf.add(tf.multiply(half, x), added, name="y")
        y2 = tf.add(tf.multiply(half, tf.identity(parsed["x2"], name="x2")), added, name="y2")
        signatures = {
            "serving_default": ({"x": info(x)}, {"y": info(y)}, "predict"),
            "classify_x_to_y": ({"inputs": info(examples)}, {"scores": info(y)}, "classify"),
            "regress_x_to_y": ({"inputs": info(examples)}, {"outputs": info(y)}, "regress"),
            "regress_x2_to_y2": ({"inputs": info(examples)}, {"outputs": info(y2)}, "regress"),
        }
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={
                key: signature_def_utils.build_signature_def(inputs, outputs, f"tensorflow/serving/{method}")
                for key, (inputs, outputs, method) in signatures.items()
            },
        )
        builder.save()


def module(folder: Path) -> None:
    """`x + x² + 1` and `x + 1`, as TensorFlow 2 saves them."""

    class Adder(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def both(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x + x**2 + 1}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def one(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x + 1}

    made = Adder()
    tf.saved_model.save(made, str(folder), signatures={"serving_default": made.both, "one": made.one})


def signatures(folder: Path) -> None:
    """Signatures with inputs of their own: `w x + 1` twice, `x + 1`, `w x` of any rank, and one of strings."""

    class Several(tf.Module):
        def __init__(self) -> None:
            self.w = tf.Variable(2.0)

        @tf.function(input_signature=[tf.TensorSpec([None, 1], tf.float32, name="x")])
        def line(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": self.w * x + 1}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
        def one(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": x + 1}

        @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
        def free(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": self.w * x}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="x")])
        def words(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y": tf.strings.length(x)}

    made = Several()
    named = {"serving_default": made.line, "again": made.line, "one": made.one, "free": made.free, "words": made.words}
    tf.saved_model.save(made, str(folder), signatures=named)


def keras(folder: Path) -> None:
    """One dense layer of ones."""
    layers = tf.keras.Sequential([tf.keras.Input((1,), name="x"), tf.keras.layers.Dense(1, kernel_initializer="ones")])
    layers.export(str(folder))


def main(base: Path) -> None:
    module(base / "module" / "1")
    keras(base / "keras" / "1")
    signatures(base / "signatures" / "1")
    v1.disable_eager_execution()
    half_plus(base / "half_plus_two" / "00000123", 2.0)
    half_plus(base / "half_plus_three" / "00000123", 3.0)


main(Path(sys.argv[1]))
