"""What a model promises: the names, types and shapes of one signature's inputs and outputs.

An *alias* is the name that a request uses (`input`); a *name* is the tensor in the graph that stands behind it
(`input:0`). A model has one or more signatures, `serving_default` among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from tacit.wire.tensor import Tensor

SERVING_DEFAULT = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a signature.

    `name` is the graph's tensor name, `dtype` TensorFlow's DataType number.
    `shape` has -1 for a free dimension, is `()` for a scalar and None where the rank is unknown.
    """

    name: str
    dtype: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs by alias, and the method that the signature was exported for.

    `defaults` are the values of inputs that a request may leave out.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = PREDICT_METHOD
    defaults: Mapping[str, Tensor] = field(default_factory=dict)
