"""An admission review, as the injector reads it. What is let in with a patch is a pod that the patch fits on."""

import base64
import json
from typing import Any

from tacit.errors import AdmissionError
from tacit.kube.injector.patch import Settings
from tacit.kube.injector.review import answer_review

REFUSALS = (AdmissionError,)
LIMIT = 8192  # bytes

_SETTINGS = Settings()


def check(data: bytes) -> None:
    answer, _ = answer_review(data, _SETTINGS)
    response = json.loads(answer)["response"]
    if not response["allowed"]:
        assert "patch" not in response
        return
    try:
        asked = json.loads(data.decode(errors="replace"))  # what the injector passes over may be nonsense
    except ValueError:
        return
    for operation in json.loads(base64.b64decode(response.get("patch", "W10="))):
        assert operation["op"] == "add"
        _place(asked["request"]["object"], operation["path"])


def _place(pod: Any, path: str) -> None:
    """The patch adds to a pod's spec alone, and to lists and containers that are there, or that it has made itself."""
    parts = path.split("/")
    assert parts[1] == "spec"
    if parts[2] == "containers":
        assert int(parts[3]) < len(pod["spec"]["containers"])
