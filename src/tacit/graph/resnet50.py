"""ResNet-50 v1.5 as a frozen inference graph with seeded weights, for machines without internet.

The layout is that of the graph that Intel publishes (He et al., arXiv:1512.03385; "v1.5" = in a bottleneck that halves
the picture, the 3×3 convolution strides, not the first 1×1):

    input    float32 [-1, 224, 224, 3], NHWC, pixel values 0..255
    conv0    7×7/2, 64 → batch norm → relu → 3×3/2 max pool
    stages   3, 4, 6, 3 bottlenecks of width 64, 128, 256, 512, each 1×1 → 3×3 → 1×1 (×4) beside a shortcut
    head     mean over the picture → dense 2048 × 1001 → softmax
    predict  float32 [-1, 1001]: Intel's graph counts a background class at 0, so 1001 and not 1000

The weights are made, not trained: the answers mean nothing, but cost exactly what a trained model's cost.
They come from PCG64's raw words, whose stream NumPy guarantees, so that one seed gives the same bytes everywhere.
Graphs are made piece by piece: concatenated protobuf messages are one message, so nothing holds all 102 MB at once.
"""

from collections.abc import Generator, Iterator
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from tacit.wire.pb import tensorflow_pb2 as tf

__all__ = ["CLASSES", "INPUT", "OUTPUT", "iter_resnet50"]

INPUT = "input"
OUTPUT = "predict"
CLASSES = 1001
PICTURE = (224, 224, 3)  # height, width, channels

# (bottlenecks, width, stride of the first) of the four stages.
STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
EXPANSION = 4  # channels out of a bottleneck, in widths

# TensorFlow 1.15's graph version: old enough for every reader, new enough for FusedBatchNormV3.
PRODUCER = 134
EPSILON = 1.001e-5  # of the batch norms, as in the published graph
# The variance that conv0 gives for uniform random pixels under He initialisation: 2 · E[x²] = 2 · 255²/3.
PIXEL_VARIANCE = 43350.0
# Residual branches add little, so that sixteen of them in a row neither explode nor saturate the softmax.
RESIDUAL_SCALE = 0.2
HEAD_SCALE = 1.0  # standard deviation, in units of 1/sqrt(2048), of the dense weights

# A piece makes nodes and ends with the name of the tensor that comes out of it.
Piece = Generator[tf.NodeDef, None, str]
Floats = NDArray[np.float32]


def iter_resnet50(*, seed: int = 0, classes: int = CLASSES) -> Iterator[bytes]:
    """The serialized GraphDef in pieces of at most 10 MB, to be written one after another; about 102 MB in all.

    The same seed gives the same bytes. `seed` is any non-negative integer.
    """
    for node in _nodes(np.random.PCG64(seed), classes):
        yield tf.GraphDef(node=[node]).SerializeToString(deterministic=True)
    yield tf.GraphDef(versions=tf.VersionDef(producer=PRODUCER)).SerializeToString(deterministic=True)


def _nodes(bits: np.random.PCG64, classes: int) -> Piece:
    placeholder = tf.NodeDef(name=INPUT, op="Placeholder")
    placeholder.attr["dtype"].type = tf.DT_FLOAT
    placeholder.attr["shape"].shape.CopyFrom(_shape((-1, *PICTURE)))
    yield placeholder
    at = yield from _convolution("conv0", INPUT, bits, size=7, channels=(3, 64), stride=2, variance=PIXEL_VARIANCE)
    at = yield from _emit(_node("conv0/relu", "Relu", at))
    at = yield from _pool("pool0", at)
    channels = 64
    for stage, (count, width, first_stride) in enumerate(STAGES):
        for block in range(count):
            stride = first_stride if block == 0 else 1
            name = f"stage{stage}/block{block}"
            at = yield from _bottleneck(name, at, bits, channels=channels, width=width, stride=stride)
            channels = width * EXPANSION
    return (yield from _head(at, bits, channels, classes))


def _bottleneck(name: str, at: str, bits: np.random.PCG64, *, channels: int, width: int, stride: int) -> Piece:
    out = width * EXPANSION
    shortcut = at
    if channels != out:
        shortcut = yield from _convolution(
            f"{name}/shortcut", at, bits, size=1, channels=(channels, out), stride=stride
        )
    at = yield from _convolution(f"{name}/a", at, bits, size=1, channels=(channels, width))
    at = yield from _emit(_node(f"{name}/a/relu", "Relu", at))
    at = yield from _convolution(f"{name}/b", at, bits, size=3, channels=(width, width), stride=stride)
    at = yield from _emit(_node(f"{name}/b/relu", "Relu", at))
    at = yield from _convolution(f"{name}/c", at, bits, size=1, channels=(width, out), scale=RESIDUAL_SCALE)
    at = yield from _emit(_node(f"{name}/add", "Add", at, shortcut))
    return (yield from _emit(_node(f"{name}/relu", "Relu", at)))


def _convolution(
    name: str,
    at: str,
    bits: np.random.PCG64,
    *,
    size: int,
    channels: tuple[int, int],
    stride: int = 1,
    variance: float = 1.0,
    scale: float = 1.0,
) -> Piece:
    """A convolution without bias and its batch norm; strided ones pad evenly on both sides, as the published graph."""
    fan_in = size * size * channels[0]
    kernel = yield from _constant(f"{name}/kernel", _he_uniform(bits, (size, size, *channels), fan_in))
    padding = b"SAME"
    if stride > 1 and size > 1:
        edge = size // 2
        edges = yield from _constant(
            f"{name}/paddings", np.array([[0, 0], [edge, edge], [edge, edge], [0, 0]], dtype=np.int32)
        )
        pad = _node(f"{name}/pad", "Pad", at, edges)
        pad.attr["Tpaddings"].type = tf.DT_INT32
        at = yield from _emit(pad)
        padding = b"VALID"
    layer = _node(f"{name}/conv", "Conv2D", at, kernel)
    layer.attr["strides"].list.i.extend([1, stride, stride, 1])
    layer.attr["dilations"].list.i.extend([1, 1, 1, 1])
    layer.attr["padding"].s = padding
    layer.attr["data_format"].s = b"NHWC"
    layer.attr["use_cudnn_on_gpu"].b = True
    layer.attr["explicit_paddings"].list.SetInParent()
    at = yield from _emit(layer)
    return (yield from _batch_norm(f"{name}/norm", at, bits, channels[1], variance=variance, scale=scale))


def _batch_norm(name: str, at: str, bits: np.random.PCG64, channels: int, *, variance: float, scale: float) -> Piece:
    gamma = yield from _constant(f"{name}/gamma", np.float32(scale) + np.float32(0.1) * _uniform(bits, (channels,)))
    beta = yield from _constant(f"{name}/beta", np.float32(0.1) * _uniform(bits, (channels,)))
    mean = yield from _constant(f"{name}/mean", np.float32(0.1) * _uniform(bits, (channels,)))
    spread = np.float32(variance) * (np.float32(1.0) + np.float32(0.2) * _uniform(bits, (channels,)))
    moving_variance = yield from _constant(f"{name}/variance", spread)
    norm = _node(name, "FusedBatchNormV3", at, gamma, beta, mean, moving_variance)
    norm.attr["U"].type = tf.DT_FLOAT
    norm.attr["epsilon"].f = EPSILON
    norm.attr["exponential_avg_factor"].f = 1.0
    norm.attr["data_format"].s = b"NHWC"
    norm.attr["is_training"].b = False
    return (yield from _emit(norm))


def _pool(name: str, at: str) -> Piece:
    pool = _node(name, "MaxPool", at)
    pool.attr["ksize"].list.i.extend([1, 3, 3, 1])
    pool.attr["strides"].list.i.extend([1, 2, 2, 1])
    pool.attr["padding"].s = b"SAME"
    pool.attr["data_format"].s = b"NHWC"
    pool.attr["explicit_paddings"].list.SetInParent()
    return (yield from _emit(pool))


def _head(at: str, bits: np.random.PCG64, channels: int, classes: int) -> Piece:
    axes = yield from _constant("head/axes", np.array([1, 2], dtype=np.int32))
    mean = _node("head/mean", "Mean", at, axes)
    mean.attr["Tidx"].type = tf.DT_INT32
    mean.attr["keep_dims"].b = False
    at = yield from _emit(mean)
    # Var of a uniform on ±limit is limit²/3.
    limit = np.float32(HEAD_SCALE * sqrt(3.0 / channels))
    kernel = yield from _constant("head/kernel", limit * _uniform(bits, (channels, classes)))
    dense = _node("head/dense", "MatMul", at, kernel)
    dense.attr["transpose_a"].b = False
    dense.attr["transpose_b"].b = False
    at = yield from _emit(dense)
    bias = yield from _constant("head/bias", np.float32(0.1) * _uniform(bits, (classes,)))
    add = _node("head/logits", "BiasAdd", at, bias)
    add.attr["data_format"].s = b"NHWC"
    at = yield from _emit(add)
    return (yield from _emit(_node(OUTPUT, "Softmax", at)))


def _emit(node: tf.NodeDef) -> Piece:
    yield node
    return node.name


def _node(name: str, op: str, *inputs: str) -> tf.NodeDef:
    node = tf.NodeDef(name=name, op=op, input=list(inputs))
    node.attr["T"].type = tf.DT_FLOAT
    return node


def _constant(name: str, value: NDArray[np.float32] | NDArray[np.int32]) -> Piece:
    dtype = tf.DT_FLOAT if value.dtype == np.float32 else tf.DT_INT32
    node = tf.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    tensor.tensor_shape.CopyFrom(_shape(value.shape))
    # TensorProto.tensor_content is little-endian, whatever this machine is.
    tensor.tensor_content = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
    return (yield from _emit(node))


def _shape(sizes: tuple[int, ...]) -> tf.TensorShapeProto:
    return tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in sizes])


def _he_uniform(bits: np.random.PCG64, shape: tuple[int, ...], fan_in: int) -> Floats:
    """Weights that keep the variance through a relu: uniform on ±sqrt(6 / fan_in) (arXiv:1502.01852)."""
    return np.float32(sqrt(6.0 / fan_in)) * _uniform(bits, shape)


def _uniform(bits: np.random.PCG64, shape: tuple[int, ...]) -> Floats:
    """Numbers in [-1, 1) from the top 24 bits of each half word, so that every one is exact in float32."""
    count = prod(shape)
    words = np.asarray(bits.random_raw((count + 1) // 2), dtype="<u8").view("<u4")[:count]
    numbers: Floats = (words >> 8).astype(np.float32) * np.float32(2.0**-23) - np.float32(1.0)
    return numbers.reshape(shape)
