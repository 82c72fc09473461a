"""How does OpenVINO run a model?

In: a model's files. Out: an engine. `reading` opens a model and compiles it, `engine` runs what was compiled, and `ports`
says which input and output a signature means. `parts` and `ranks` are for models that are compiled more than once;
`guards` and `shapes` check what the library leaves unchecked.
"""

from tacit.serving.engines.openvino.engine import OpenVinoEngine
from tacit.serving.engines.openvino.library import import_library, open_core, reason_of
from tacit.serving.engines.openvino.reading import load_openvino

__all__ = ["OpenVinoEngine", "import_library", "load_openvino", "open_core", "reason_of"]
