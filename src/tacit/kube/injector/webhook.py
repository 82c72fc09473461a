"""The injector's door: two routes, by HTTPS alone. Whatever is no review is answered in words, and changes nothing."""

import logging

from tacit.edge import HttpRequest, HttpResponse
from tacit.errors import AdmissionError
from tacit.kube.injector.patch import Settings
from tacit.kube.injector.review import answer_review

MAX_REVIEW = 4 << 20  # bytes; Kubernetes takes no object above 3 MiB, and a review is little more than its pod
PORT = 8443

_LOG = logging.getLogger("tacit.kube.injector")
_JSON = "application/json"
_METHODS = {"/mutate": ("POST",), "/healthz": ("GET", "HEAD")}


class Webhook:
    """Answers `POST /mutate` and `GET /healthz`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """One answer."""
        methods = _METHODS.get(request.path)
        if methods is None:
            return _refuse(404, "there is /mutate for reviews, and /healthz")
        if request.method not in methods:
            return _refuse(405, f"{request.path} takes {' or '.join(methods)}", {"allow": ", ".join(methods)})
        if request.path == "/healthz":
            return HttpResponse(200, b"ok\n", {"content-type": "text/plain; charset=utf-8"})
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _JSON:
            return _refuse(415, f"a review comes as {_JSON}")
        try:
            answer, note = answer_review(request.body, self._settings)
        except AdmissionError as exc:
            _LOG.warning("review refused: %s", exc)
            return _refuse(400, str(exc))
        _LOG.info("review %s", note)
        return HttpResponse(200, answer, {"content-type": _JSON})


def _refuse(status: int, text: str, headers: dict[str, str] | None = None) -> HttpResponse:
    body = f"{text}\n".encode()
    return HttpResponse(status, body, {"content-type": "text/plain; charset=utf-8", **(headers or {})})
