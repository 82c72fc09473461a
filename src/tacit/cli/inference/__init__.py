"""How does one ask a server, and how fast does it answer?

In: `tacit predict` and `tacit bench` with their options. Out: a prediction as JSON or arrays, and measured times.
"""

from tacit.cli.inference.bench import bench
from tacit.cli.inference.predict import predict

__all__ = ["bench", "predict"]
