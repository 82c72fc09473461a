"""The coordinator's own certificates, and self-signed ones for those who only need a key that others can recognize.

The root signs the intermediate. The marble root has the intermediate's key and name and signs itself, so that a leaf
verifies both under the marble root alone and under intermediate and root.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509

from tacit.pki.keys import KeyPair, PublicKey, generate_key, public_key_of
from tacit.pki.shape import LIFETIME, LOOPBACK, Grants, Names, Shape, alternative_names, marked, sign, split_names

ROOT_NAME = "MarbleRun Coordinator"
INTERMEDIATE_NAME = "MarbleRun Coordinator - Intermediate CA"

CA_USAGE = 1 | 32  # digitalSignature, keyCertSign
CLIENT_USAGE = 1 | 16  # digitalSignature, keyAgreement


def issue_root(names: Sequence[str], *, now: datetime, mark: str | None = None) -> KeyPair:
    """A new self-signed root that answers under these DNS names and IP addresses, and on loopback.

    Args:
        names: DNS names and IP addresses, mixed.
        now: Start of validity, UTC.
        mark: Organizational unit that says what this mesh is not (`SIMULATED`, `UNATTESTED`).

    Raises:
        PkiError: A name that no certificate can hold.
    """
    key = generate_key()
    subject = marked(ROOT_NAME, mark)
    shape = _authority(subject, key.public_key(), coordinator_names(names), now=now)
    return KeyPair(sign(shape, issuer_name=subject, issuer=None, key=key), key)


def issue_intermediate(root: KeyPair, names: Sequence[str], *, now: datetime, mark: str | None = None) -> KeyPair:
    """A new intermediate authority under the root, with the root's names. Raises: PkiError."""
    key = generate_key()
    shape = _authority(marked(INTERMEDIATE_NAME, mark), key.public_key(), coordinator_names(names), now=now)
    return KeyPair(sign(shape, issuer_name=root.certificate.subject, issuer=root, key=root.key), key)


def issue_marble_root(intermediate: KeyPair, *, now: datetime) -> KeyPair:
    """The intermediate's key, name and alternative names again, signed by itself. Raises: PkiError."""
    subject = intermediate.certificate.subject
    names = alternative_names(intermediate.certificate.extensions)
    shape = _authority(subject, public_key_of(intermediate.certificate), names, now=now)
    return KeyPair(sign(shape, issuer_name=subject, issuer=None, key=intermediate.key), intermediate.key)


def issue_self_signed(
    names: Sequence[str], *, common_name: str, now: datetime, lifetime: timedelta = LIFETIME
) -> KeyPair:
    """A new P-384 key with a certificate that nobody vouches for: a marble's or a user's, or the injector's.

    Loopback is added to the names. Raises: PkiError.
    """
    key = generate_key()
    subject = marked(common_name, None)
    shape = Shape(
        subject=subject,
        public_key=key.public_key(),
        not_before=now,
        not_after=now + lifetime,
        grants=Grants(CLIENT_USAGE, coordinator_names(names)),
    )
    return KeyPair(sign(shape, issuer_name=subject, issuer=None, key=key), key)


def coordinator_names(names: Sequence[str]) -> Names:
    """DNS names, loopback, then the other addresses, each once."""
    given = split_names(names)
    return Names(tuple(dict.fromkeys(given.dns)), tuple(dict.fromkeys((*LOOPBACK, *given.ips))))


def _authority(subject: x509.Name, key: PublicKey, names: Names, *, now: datetime) -> Shape:
    """What the coordinator's three certificates have in common."""
    return Shape(subject, key, now, now + LIFETIME, Grants(CA_USAGE, names, is_ca=True))
