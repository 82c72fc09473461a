"""How does one ask a server, and how fast does it answer?

In: `tacit predict`, `tacit bench` and `tacit model compare` with their options. Out: a prediction as JSON or arrays,
measured times, and what a faster arithmetic costs.
"""

from tacit.cli.inference.bench import bench
from tacit.cli.inference.compare import compare
from tacit.cli.inference.predict import predict

__all__ = ["bench", "compare", "predict"]
