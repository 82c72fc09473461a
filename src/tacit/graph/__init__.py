"""What does a model file say?

In: the bytes of a frozen GraphDef or of a SavedModel. Out: which tensors can be fed and asked for, with their types and
shapes; a SavedModel made from a graph; and a ResNet-50 with made weights, for machines without internet.

No model is run here and nothing is read or written: the command line and the model server, which may not import each
other, both stand on this room. Neither TensorFlow nor ONNX is needed. (`resnet50` needs NumPy and is imported by name.)
"""

from tacit.graph.graphdef import Graph, parse_graph
from tacit.graph.infer import dtype_name, parse_dtype, tensor_spec
from tacit.graph.savedmodel import build_saved_model, parse_saved_model
from tacit.graph.signature import Signature, TensorSpec

__all__ = [
    "Graph",
    "Signature",
    "TensorSpec",
    "build_saved_model",
    "dtype_name",
    "parse_dtype",
    "parse_graph",
    "parse_saved_model",
    "tensor_spec",
]
