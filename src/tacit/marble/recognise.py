"""Which coordinator may this process obey?

Whoever answers in the coordinator's place chooses what this process becomes, and MarbleRun's protocol has no check of
that on the marble's side. There are three ways to know it, and nothing is sent to one that fails them:

- `Pinned`: a package of the measured configuration says which program the coordinator has to be. Its client API shows
  evidence for a fresh nonce, which is verified and appraised as any client does (`client.connect`); the mesh port then
  has to show the key of the attested intermediate. What was seen is remembered: another root, or an older state of the
  same, is refused.
- `KnownKey`: the mesh port has to show the key of a certificate that was given.
- `Unknown`: anybody is obeyed, and the log says so. Never in a real TEE.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from tacit.client.address import COORDINATOR_PORT, Address, parse_address
from tacit.client.connect import ACCEPTS_MARBLES, AttestedCoordinator, attest_expected
from tacit.client.trust import Expectation, TrustStore
from tacit.errors import (
    AppraisalError,
    EvidenceError,
    InRecoveryError,
    UnreachableError,
    UsageError,
)
from tacit.evidence import Tee, TrustAnchor
from tacit.marble.activate import Settings
from tacit.marble.place import load_certificates, load_package

MESH_PORT = 2001


class NotYet(Exception):  # noqa: N818  # no error: a reason to try again
    """The coordinator cannot activate anybody yet."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing says which coordinator to expect."""


@dataclass(frozen=True, slots=True)
class KnownKey:
    """Certificates (PEM), one of which has the coordinator's mesh key."""

    certificates_pem: bytes


@dataclass(frozen=True, slots=True)
class Pinned:
    """Where the client API is, which program has to answer there, and the memory of what was seen."""

    api: str
    expectation: Expectation
    trust: TrustStore


Recognition = Unknown | KnownKey | Pinned


def load_recognition(settings: Settings, load_anchor: Callable[[Tee], TrustAnchor]) -> Recognition:
    """How to know the coordinator, as the settings have it. `load_anchor` gives the root for a kind of TEE.

    Raises:
        UsageError: settings that contradict each other, or a package for no kind of TEE.
        InputError: a file that cannot be read, an address that is none, or a package that would allow anything.
        PlatformError: no root for the package's kind of TEE.
    """
    if settings.coordinator_package is None:
        if settings.coordinator_api is not None:
            raise UsageError(
                "TACIT_COORDINATOR_API is set, and nothing says which program to expect there: name the file with "
                "its package by TACIT_COORDINATOR_PACKAGE"
            )
        if settings.key_bound:
            raise UsageError(
                "TACIT_COORDINATOR_KEY_BOUND is set, and nothing says which program to expect: name the file with its "
                "package by TACIT_COORDINATOR_PACKAGE"
            )
        known = settings.coordinator_certificate
        return Unknown() if known is None else KnownKey(load_certificates(known))
    if settings.coordinator_certificate is not None:
        raise UsageError(
            "TACIT_COORDINATOR_PACKAGE and TACIT_COORDINATOR_CERTIFICATE are both set; the package says more, so "
            "take the certificate out"
        )
    mesh = parse_address(settings.coordinator, default_port=MESH_PORT)
    api = settings.coordinator_api or str(Address(mesh.host, COORDINATOR_PORT))
    address = str(parse_address(api, default_port=COORDINATOR_PORT))
    package = load_package(settings.coordinator_package)
    named = package.tee or Tee.SGX
    if named not in tuple(Tee):
        raise UsageError(
            f"{settings.coordinator_package}: {named!r} is no kind of TEE; expected one of {', '.join(Tee)}"
        )
    collateral = _place_of_collateral(settings, Tee(named))
    expectation = Expectation(
        str(named), package, load_anchor(Tee(named)), collateral=collateral, key_bound=settings.key_bound
    )
    folder = settings.trust_folder
    trust = TrustStore(
        folder, forget=f"remove {folder / 'trust.json'}", move="TACIT_TRUST_DIR names the folder for what was seen"
    )
    trust.store_expectation(address, expectation)
    return Pinned(address, expectation, trust)


def _place_of_collateral(settings: Settings, tee: Tee) -> str | None:
    """A bundle's file or the address of a service; None for the maker's own."""
    if tee.is_simulated:
        return None
    if settings.bundle is not None:
        return str(settings.bundle)
    maker = "amd" if tee is Tee.SNP else "intel"
    service = settings.services.get(maker, maker)
    return None if service == maker else service


def require_recognition(own: Tee | None, recognition: Recognition) -> None:
    """In a real TEE only a coordinator in a real TEE is obeyed, whose program is pinned. Raises: UsageError."""
    if own is None or own.is_simulated:
        return
    if not isinstance(recognition, Pinned):
        raise UsageError(
            f"in a real TEE ({own}) this program obeys no coordinator that it cannot check: whoever answers chooses "
            "the command and its secrets. Name the file with the coordinator's package by TACIT_COORDINATOR_PACKAGE, "
            "both in the measured configuration"
        )
    if Tee(recognition.expectation.tee).is_simulated:
        raise UsageError(
            f"TACIT_COORDINATOR_PACKAGE names a simulated coordinator, and this is a real TEE ({own}): anybody can "
            "make simulated evidence, so a real marble never obeys it"
        )


def attest_pinned(pinned: Pinned, *, now: datetime, nonce: bytes, timeout: float) -> AttestedCoordinator:
    """The pinned coordinator, ready to activate marbles.

    Raises:
        NotYet: nobody answers, it is in recovery, or it has no manifest.
        TacitError: it is not the pinned one; the class says in what.
    """
    # Of the file only what was seen is taken: it may lie on the host's disk, and what to expect must not come from there.
    seen = pinned.trust.load_expectation(pinned.api)
    expectation = replace(pinned.expectation, root_der=seen.root_der)
    try:
        found = attest_expected(pinned.api, expectation, pinned.trust, now=now, nonce=nonce, timeout=timeout)
    except (UnreachableError, InRecoveryError) as exc:
        raise NotYet(str(exc)) from exc
    except (AppraisalError, EvidenceError) as exc:
        raise type(exc)(
            f"the coordinator at {pinned.api} is not the one that TACIT_COORDINATOR_PACKAGE names, and nothing was "
            f"sent to it: {exc}"
        ) from exc
    if found.status.code != ACCEPTS_MARBLES:
        raise NotYet(f"the coordinator at {pinned.api} cannot activate yet: {found.status.message}")
    return found
