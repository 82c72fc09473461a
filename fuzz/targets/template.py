"""A template of a manifest, filled in for a file and for a variable; secrets come out only where they were asked for."""

from tacit.errors import TemplateError
from tacit.manifest import TemplateData, render
from tacit.manifest.model import Content
from tacit.manifest.template import TemplateSecret

REFUSALS = (TemplateError,)
LIMIT = 2048  # bytes

_CANARY = bytes(range(0xE0, 0xF0))
_SECRET = TemplateSecret("symmetric-key", 128, True, True, 0, b"", _CANARY, _CANARY)
_PAIR = TemplateSecret("cert-ecdsa", 256, False, False, 7, b"\x30\x03cer", b"\x30\x03key", b"\x30\x03pub")
_DATA = TemplateData(
    secrets={"k": _SECRET, "b-c": _PAIR, "p": TemplateSecret("plain", 0, True, True, 0, b"", b"{{ .x }}", b"{{ .x }}")},
    previous_secrets={"k": _SECRET},
    root_ca=TemplateSecret(cert=b"\x30\x03roo"),
    marble_cert=_PAIR,
)


def check(data: bytes) -> None:
    refused = []
    for target in ("file", "env"):
        try:
            filled = render(Content(data), _DATA, target=target)  # type: ignore[arg-type]
        except TemplateError as exc:
            assert _CANARY.decode("latin-1") not in str(exc) and _CANARY.hex() not in str(exc), (
                "a refusal quotes no secret"
            )
            refused.append(exc)
        else:
            assert target == "file" or b"\0" not in filled
            assert b"{{" in data or filled == data
    if refused:
        raise refused[0]
