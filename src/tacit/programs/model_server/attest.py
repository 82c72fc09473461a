"""Evidence for each connection of the REST port: who makes it, and for which certificate."""

from collections.abc import Callable, Mapping
from datetime import datetime

from tacit.edge.listener import HttpHandler
from tacit.errors import UsageError
from tacit.evidence import Tee
from tacit.evidence.claims import Issuer
from tacit.evidence.issue import default_platform_folder, load_simulated_tee
from tacit.pki import parse_key_pair
from tacit.programs.model_server.evidence import AttestedRest
from tacit.programs.tee.surroundings import find_real_tee, load_real_tee


def load_issuer(environ: Mapping[str, str], *, now: datetime) -> Issuer:
    """The TEE that this process was attested in.

    Raises:
        UsageError: it was not attested, runs unattested, or is in another TEE than it was told.
        PlatformError: there is no simulated platform.
        TeeError: the real TEE cannot be used.
    """
    tee = environ.get("TACIT_TEE", "")
    if tee not in tuple(Tee):
        raise UsageError(f"--attest_connections needs a TEE that makes evidence; this process runs in {tee or 'none'}")
    real = find_real_tee()
    if real is not None and Tee(tee) is not real:
        raise UsageError(
            f"this program runs in a real TEE ({real}), and TACIT_TEE says {tee}: in a real TEE it shows that TEE's evidence alone; "
            "start it by tacit-premain"
        )
    if Tee(tee).is_simulated:
        return load_simulated_tee(default_platform_folder(environ), program="marble", now=now, tee=Tee(tee))
    return load_real_tee(Tee(tee))


def attested(handle: HttpHandler, issuer: Issuer, pair: Callable[[], tuple[bytes, bytes]] | None) -> HttpHandler:
    """The handler, answering for evidence that is bound to its connections too. Raises: UsageError."""
    if pair is None:
        raise UsageError("--attest_connections needs TLS: there is nothing to bind evidence to")

    def certificate() -> bytes:
        return parse_key_pair(*pair()).certificate_der

    certificate()
    return AttestedRest(handle, issuer, certificate).handle
