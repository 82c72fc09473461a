"""How every noun reaches a coordinator that it has checked.

What is expected of it comes from the first of these that there is: the options of this command (`--era-config`,
`--coordinator-cert`), what `tacit trust` was told, and, where that knows nothing of the host, what MarbleRun's command
line would go by: ./era-config.json, or for verbs that ask for no evidence there, the certificates that it remembers.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.cli.files import read_input, write_output
from tacit.cli.platform import platform_folder
from tacit.cli.trust.era import ThisOnce, load_era_config
from tacit.cli.trust.flags import Flags, current_flags
from tacit.cli.trust.through import named_host, open_way
from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.connect import (
    NONCE_SIZE,
    AttestedCoordinator,
    attest_coordinator,
    fetch_unverified,
    verify_pinned,
)
from tacit.client.coordinator import CoordinatorClient
from tacit.client.trust import Expectation, TrustStore, default_trust_folder
from tacit.errors import (
    AppraisalError,
    ConnectError,
    InputError,
    NotTrustedError,
    PinMismatchError,
    PkiError,
    UnauthorizedError,
)
from tacit.evidence import Tee
from tacit.pki import KeyPair
from tacit.pki.keys import parse_certificates

_ERA_CONFIG = Path("era-config.json")  # where MarbleRun's command line leaves the one that it downloaded
_IN_RECOVERY = 1
_CERTIFICATES = "coordinator-cert.pem"

HostArgument = Annotated[
    str,
    typer.Argument(
        metavar="HOST:PORT",
        help="Client API of the coordinator, such as localhost:4433.",
        default_factory=str,  # empty, and then it depends on --kube
        callback=named_host,
        show_default=False,
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option(
        "--insecure", "-i", help="Skip the check of evidence. For a coordinator without any: nothing is proven."
    ),
]


@dataclass(frozen=True, slots=True)
class Reached:
    """A coordinator whose certificates are known: `intermediate_pem` and `root_pem`, and a client that trusts that root alone.

    `tee` is the kind of TEE that was proven, or `unattested`, `certificate`, `unverified`: how little was. `pinned` tells
    that it holds the manifest that was pinned.
    """

    host: str
    intermediate_pem: bytes
    root_pem: bytes
    tee: str
    pinned: bool = False
    attested: AttestedCoordinator | None = None

    def client(self, certificate: KeyPair | None = None) -> CoordinatorClient:
        """Calls of its client API, as the user of `certificate` where one is given.

        Where evidence was asked for, each connection is attested before it is used.
        """
        if self.attested is not None:
            return self.attested.open(clock=lambda: datetime.now(UTC), certificate=certificate)
        return CoordinatorClient(self.host, roots_pem=self.root_pem, certificate=certificate)


def open_store() -> TrustStore:
    """What this user expects of coordinators."""
    return TrustStore(default_trust_folder(os.environ))


def reach(
    host: str,
    *,
    insecure: bool = False,
    quiet: bool = False,
    cached: bool = False,
    pinned: bool = True,
    recovering: bool = False,
    sending: bool = False,
) -> Reached:
    """Check the coordinator at `host` and give the way to talk to it.

    With `insecure` nothing is checked. That is said on standard output as MarbleRun's command line says it, or with
    `quiet` on standard error. `cached` tells that the verb is one for which that one asks for no evidence, and goes by
    the certificates that it keeps: then those are taken where nothing else is known. Without
    `pinned` another manifest than the pinned one is let pass, for the verbs that look at the manifest themselves; with
    `recovering` a coordinator in recovery mode is enough, which has a root and no manifest of its own yet. `sending` tells
    that something secret is to go there, for which a manifest has to be pinned; certificates stand for one, as they were
    kept when the manifest was set or verified.
    Raises: NotTrustedError, EvidenceError, AppraisalError, RollbackError, ConnectError, InputError.
    """
    parsed = parse_address(host, default_port=COORDINATOR_PORT)
    open_way(parsed)
    address = str(parsed)
    flags = current_flags()
    if insecure:
        typer.echo("Warning: skipping quote verification", err=quiet)
        return _reach_unverified(address, flags)
    store = open_store()
    if cached and flags.era_config is None:
        file = _certificate_file(store, address, flags)
        if file is not None:
            return _reach_by_certificate(address, file)
    era = _era_config(store, address, flags, quiet=quiet, cached=cached)
    try:
        found = _attest(address, ThisOnce(store, flags, era=era, pinned=pinned), flags)
    except PinMismatchError:
        if not recovering:
            raise
        # Until it is recovered, a coordinator shows a root that it made for that, and no manifest.
        found = _attest(address, ThisOnce(store, flags, era=era, pinned=False, rooted=False), flags)
        if found.status.code != _IN_RECOVERY:
            raise
    if sending:
        verify_pinned(found)
    if found.tee not in (Tee.SGX, Tee.TDX, Tee.SNP):
        typer.echo(f"Note: this coordinator is {found.tee.upper()}: nothing protects it.", err=True)
    _save_quote(flags, found.evidence)
    return Reached(address, found.intermediate_pem, found.root_pem, found.tee, found.manifest is not None, found)


def note_unpinned(reached: Reached) -> None:
    """Say of a coordinator that was attested that nobody compared its manifest."""
    if not reached.pinned and reached.tee not in ("unverified", "certificate"):
        typer.echo(
            f"Note: no manifest is pinned for {reached.host}, so anybody may have set the one that it holds; "
            f"`tacit manifest verify FILE {reached.host}` compares it with yours and pins it.",
            err=True,
        )


def _attest(address: str, memory: ThisOnce, flags: Flags) -> AttestedCoordinator:
    """The coordinator, checked now. Raises: as `reach`."""
    nonce = os.urandom(NONCE_SIZE) if flags.nonce is None else flags.nonce
    try:
        return attest_coordinator(address, memory, now=datetime.now(UTC), nonce=nonce, platform=platform_folder())
    except NotTrustedError as exc:
        raise NotTrustedError(f"{exc} (or give an era config with --era-config FILE; none is downloaded)") from exc
    except AppraisalError as exc:
        raise type(exc)(f"{exc}. If it was updated on purpose, run `tacit trust {address} --tee ...` again") from exc


def _era_config(store: TrustStore, address: str, flags: Flags, *, quiet: bool, cached: bool) -> Expectation | None:
    """What an era config says to expect, if one was named, or lies here and nothing else is known. Raises: InputError."""
    if flags.era_config is not None:
        return load_era_config(flags.era_config)
    if cached or address in store.load_hosts() or not _ERA_CONFIG.is_file():
        return None
    typer.echo("Reusing existing config file", err=quiet)
    return load_era_config(_ERA_CONFIG)


def _reach_unverified(address: str, flags: Flags) -> Reached:
    """What the coordinator says of itself, with nothing checked; never remembered. Raises: ConnectError."""
    intermediate_pem, root_pem, evidence = fetch_unverified(address, nonce=flags.nonce or b"")
    _save_quote(flags, evidence)
    return Reached(address, intermediate_pem, root_pem, "unverified")


def _save_quote(flags: Flags, evidence: bytes) -> None:
    if flags.quote_file is not None:
        write_output(flags.quote_file, evidence)


# ---- certificates that were checked before, in files


def keep_certificates(reached: Reached, *, asked: bool = False) -> None:
    """Keep the certificates as MarbleRun's command line does, in our folder, or where the options say.

    What nobody checked is kept only in a file that was named for it; of a host that `tacit trust` knows, the root is
    remembered there. `asked` tells that keeping was asked for.
    """
    named = current_flags().certificates
    store = open_store()
    if named is None and reached.tee == "unverified":
        if asked:
            reason = "the certificates were not checked, so they are not kept; name a file with --coordinator-cert"
            typer.echo(f"Note: {reason}", err=True)
        return
    if named is None and not asked and reached.host in store.load_hosts():
        return
    target = named or store.path.with_name(_CERTIFICATES)
    if named is None:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_output(target, reached.intermediate_pem + reached.root_pem)


def _certificate_file(store: TrustStore, address: str, flags: Flags) -> Path | None:
    """The certificates to go by: those that were named; for a host of which nothing is known, those that were kept."""
    if flags.certificates is not None:
        return flags.certificates
    if address in store.load_hosts():
        return None
    ours = store.path.with_name(_CERTIFICATES)
    theirs = store.path.parent.parent / "marblerun" / _CERTIFICATES
    return next((file for file in (ours, theirs) if file.is_file()), None)


def _reach_by_certificate(address: str, file: Path) -> Reached:
    """A coordinator that has the root certificate of a file. Raises: FileInputError, InputError."""
    try:
        chain = parse_certificates(read_input(file))
    except PkiError as exc:
        raise InputError(f"{file}: {exc}") from exc
    if len(chain) < 2:
        raise InputError(
            f"could not parse Coordinator root certificate from PEM data: {file} has {len(chain)} certificates, expected "
            "the intermediate and the root, as `tacit certificate chain` writes them"
        )
    typer.echo(f"Note: {address} is compared with the certificates in {file}; its evidence is not asked for.", err=True)
    intermediate_pem, root_pem = (one.public_bytes(Encoding.PEM) for one in chain[:2])
    return Reached(address, intermediate_pem, root_pem, "certificate")


@contextmanager
def while_doing(what: str) -> Iterator[None]:
    """Put before a coordinator's refusal what was being done, as MarbleRun's command line does."""
    try:
        yield
    except (ConnectError, UnauthorizedError) as exc:
        raise type(exc)(f"{what}: {exc}") from exc
