"""What stands in certificates and signatures: the first byte says of which kind.

`r` a whole RA-TLS certificate, `t` its tagged evidence (CBOR), `p` the extension of a PCK certificate, `a` a certificate of
AMD's for a chip, `s` a SIGSTRUCT or what it lies in.
"""

from datetime import UTC, datetime
from typing import Any

from tacit.errors import EvidenceError, EvidenceFormatError
from tacit.evidence.intel.pck import parse_pck_extension
from tacit.evidence.sgx.sigstruct import find_sigstruct
from tacit.evidence.snp.certificates import parse_amd_certificate, parse_identity
from tacit.evidence.verify.ratls import _parse_tagged, parse_ratls

REFUSALS = (EvidenceError,)
LIMIT = 8192  # bytes
_NOW = datetime(2026, 11, 24, tzinfo=UTC)
_KEY = b"DER of a key"


class _Certificate:
    """A certificate that has this extension, whatever is asked for."""

    def __init__(self, value: bytes) -> None:
        self.value: Any = value
        self.extensions = self

    def get_extension_for_oid(self, _: object) -> Any:
        return _Certificate.of(self.value)

    @staticmethod
    def of(value: bytes) -> "_Certificate":
        outer = _Certificate(value)
        outer.value = _Certificate(value)
        return outer


def check(data: bytes) -> None:
    kind, content = data[:1], data[1:]
    if kind == b"r":
        assert parse_ratls(content, now=_NOW).certificate == content
    elif kind == b"t":
        tagged = _parse_tagged(b"", _KEY, content)
        assert tagged.nonce is None or tagged.nonce in content
        assert tagged.quote in content
    elif kind == b"p":
        found: Any = _Certificate(content)
        extension = parse_pck_extension(found)
        assert (len(extension.ppid), len(extension.fmspc), len(extension.components)) == (16, 6, 16)
    elif kind == b"a":
        certificate = parse_amd_certificate(content)
        assert certificate.raw == content
        parse_identity(certificate)
    elif kind == b"s":
        assert len(find_sigstruct(content).signer_id) == 32
    else:
        raise EvidenceFormatError("another kind")
