import hashlib

import pytest

from tacit.graph import parse_graph, tensor_spec
from tacit.graph.resnet50 import CLASSES, INPUT, OUTPUT, iter_resnet50
from tacit.wire.pb import tensorflow_pb2 as tf

# Of seed 0. It changes only when the graph does: the weights come from a stream that NumPy guarantees.
SHA256 = "efb27dbf0e373b5c94a80249c247123a99059445bc78ff196fc5dc0afebe3723"


@pytest.fixture(scope="module")
def raw() -> bytes:
    return b"".join(iter_resnet50(seed=0))


def test_the_same_seed_gives_the_same_bytes_everywhere(raw: bytes) -> None:
    assert hashlib.sha256(raw).hexdigest() == SHA256


def test_another_seed_gives_other_weights_of_the_same_size(raw: bytes) -> None:
    digest, size = hashlib.sha256(), 0
    for piece in iter_resnet50(seed=1):
        digest.update(piece)
        size += len(piece)
    assert size == len(raw)
    assert digest.hexdigest() != SHA256


def test_no_piece_is_large() -> None:
    assert max(len(piece) for piece in iter_resnet50()) < 10_000_000


def test_input_and_output_are_the_published_models(raw: bytes) -> None:
    graph = parse_graph(raw)
    assert graph.placeholders() == (INPUT,)
    assert graph.ends() == (OUTPUT,)
    assert tensor_spec(graph, INPUT).shape == (-1, 224, 224, 3)
    assert tensor_spec(graph, OUTPUT).shape == (-1, CLASSES) == (-1, 1001)


def test_there_are_fifty_layers_with_weights_beside_the_shortcuts(raw: bytes) -> None:
    nodes = parse_graph(raw).nodes.values()
    convolutions = [node for node in nodes if node.op == "Conv2D" and "shortcut" not in node.name]
    assert len(convolutions) + sum(node.op == "MatMul" for node in nodes) == 50


def test_in_version_one_and_a_half_the_middle_convolution_strides(raw: bytes) -> None:
    nodes = parse_graph(raw).nodes
    assert list(nodes["stage1/block0/a/conv"].attr["strides"].list.i) == [1, 1, 1, 1]
    assert list(nodes["stage1/block0/b/conv"].attr["strides"].list.i) == [1, 2, 2, 1]


def test_it_has_the_parameters_of_resnet_50(raw: bytes) -> None:
    kernels = [node for node in parse_graph(raw).nodes.values() if node.name.endswith("/kernel")]
    count = 0
    for kernel in kernels:
        size = 1
        for dim in kernel.attr["value"].tensor.tensor_shape.dim:
            size *= dim.size
        count += size
    # 23,454,912 in convolutions, as everywhere, and 2048 × 1001 in the head.
    assert count == 23_454_912 + 2048 * 1001


def test_every_node_reads_only_nodes_before_it(raw: bytes) -> None:
    seen: set[str] = set()
    for node in tf.GraphDef.FromString(raw).node:
        assert set(node.input) <= seen
        seen.add(node.name)
