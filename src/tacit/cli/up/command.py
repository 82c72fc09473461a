"""`tacit up MODEL`: one's own model, encrypted, attested and served on this machine by one command."""

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tacit.cli.files import write_output
from tacit.cli.model.encrypt import name_of
from tacit.cli.model.progress import progress_bar
from tacit.cli.platform import ensure_platform, package_of
from tacit.cli.trust import open_store
from tacit.cli.up.interrupts import Interrupts
from tacit.cli.up.ports import Ports
from tacit.cli.up.processes import Program, Programs
from tacit.cli.up.source import check_content, find_model, seal_model
from tacit.cli.up.stage import KEY_NAME, Stage
from tacit.client.address import COORDINATOR_PORT, parse_address
from tacit.client.answers import NewSecret
from tacit.client.connect import NONCE_SIZE, AttestedCoordinator, attest_coordinator, load_simulated_expectation
from tacit.errors import ConnectError, InputError, NotTrustedError, TacitError
from tacit.pki import KeyPair, issue_self_signed
from tacit.vault.capsule import Source

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_VERSION = 1
_LOOK = 0.5  # seconds between two looks at whether the programs still run


def up(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="ONNX file, SavedModel folder, frozen graph, or OpenVINO IR.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Name to serve it under (default: from the file's name).")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Start, check, print the examples, and end: for scripts and tests.")
    ] = False,
) -> None:
    """Encrypt a model, have a server attested for it, and serve it on this machine until Ctrl-C.

    Everything runs on the SIMULATED platform: the whole way is real, the protection is not.

    Example: tacit up my_model.onnx
    """
    sources = find_model(model)
    served_as = _served_name(model, name)
    check_content(sources)
    with Interrupts() as interrupts, contextlib.ExitStack() as cleanup:
        with interrupts.held():
            platform = ensure_platform()
            folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tacit-up-")))
            ports = cleanup.enter_context(_reserved_ports())
            programs = cleanup.enter_context(Programs(folder / "logs", interrupts))
        stage = Stage(folder, platform, served_as, folder / f"{served_as}.capsule", ports)
        cleanup.callback(_forget, stage.host)
        typer.echo(
            f"SIMULATED TEE: the whole way is real, the protection is not. Everything lies in {folder} until the end."
        )
        if stage.ports.unusual:
            chosen = ", ".join(f"{port} in place of {usual}" for usual, port in stage.ports.unusual.items())
            typer.echo(f"Some of the usual ports are not free here; used are {chosen}.")
        started = _serve(stage, programs, model, sources)
        if not once:
            typer.echo("Ctrl-C ends everything.")
            _watch(started)


def _serve(stage: Stage, programs: Programs, model: Path, sources: Sequence[Source]) -> Sequence[Program]:
    """Encrypt, start, attest, release, and say how to ask; the programs that run then. Raises: TacitError."""
    key = secrets.token_bytes(32)  # in memory alone: it goes to the coordinator and is never written
    with progress_bar(f"Encrypting {model.name}") as progress:
        info = seal_model(sources, stage.capsule, key, name=stage.model, version=_VERSION, progress=progress)
    typer.echo(f"[1/5] encrypted {model} with a fresh key into {stage.capsule.name}, id {info.id.hex()[:16]}...")
    coordinator = stage.start_coordinator(programs)
    attested = trust_own(stage)
    typer.echo(f"[2/5] coordinator at {stage.host}: evidence checked, root pinned")
    owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
    release(stage, attested, owner, model_id=info.id, key=key)
    del key
    typer.echo("[3/5] manifest set and pinned, model key handed to the coordinator as a secret")
    server = stage.start_server(programs)
    stage.wait_for_server(server)
    typer.echo(f"[4/5] server attested: gRPC at {stage.server}, REST at https://{stage.rest}")
    from tacit.cli.up.examples import describe  # brings numpy and gRPC, which no other command should wait for

    typer.echo(f"[5/5] ask it:\n\n{describe(stage, stage.roots)}")
    return coordinator, server


def _watch(programs: Sequence[Program]) -> NoReturn:
    """Wait for a signal. Raises: ConnectError when a program ends by itself."""
    while True:
        for program in programs:
            code = program.exit_code()
            if code is not None:
                raise ConnectError(f"the {program.name} ended by itself with code {code}: {program.last_word()}")
        time.sleep(_LOOK)


def _reserved_ports() -> contextlib.AbstractContextManager[Ports]:
    """Ports for a new stage. Where a coordinator of somebody's own is expected, what is known of it is left alone."""
    known = [parse_address(host, default_port=COORDINATOR_PORT) for host in open_store().load_hosts()]
    return Ports.reserved(
        avoid={address.port for address in known if address.host in ("localhost", "127.0.0.1", "::1")}
    )


def _forget(host: str) -> None:
    """Expect nothing any more at an address where nothing will be."""
    with contextlib.suppress(TacitError):
        open_store().forget(host)


def trust_own(stage: Stage) -> AttestedCoordinator:
    """Expect the coordinator that was just started here, in place of an earlier one at this address, and check it."""
    store = open_store()
    host = stage.host
    with contextlib.suppress(NotTrustedError):  # nobody was expected at this address yet
        store.forget(host)
    store.store_expectation(host, load_simulated_expectation(stage.platform))
    return attest(stage)


def attest(stage: Stage) -> AttestedCoordinator:
    """Check the coordinator against what is expected of it. Raises: as `attest_coordinator`."""
    return attest_coordinator(
        stage.host, open_store(), now=datetime.now(UTC), nonce=os.urandom(NONCE_SIZE), platform=stage.platform
    )


def release(
    stage: Stage,
    attested: AttestedCoordinator,
    owner: KeyPair,
    *,
    model_id: bytes,
    key: bytes,
    before_key: Callable[[], object] = lambda: None,
) -> None:
    """Set the manifest, pin it, and hand the model's key to the coordinator; `before_key` runs in between.

    Raises: ConnectError.
    """
    reader = issue_self_signed([], common_name="reader", now=datetime.now(UTC))
    for path, content in zip(stage.reader, (reader.certificate_pem, reader.key_pem), strict=True):
        write_output(path, content)
    manifest = stage.manifest(
        package_of("marble", stage.platform),
        model_id=model_id,
        version=_VERSION,
        owner_pem=owner.certificate_pem.decode(),
        reader_pem=reader.certificate_pem.decode(),
    )
    stage.roots.write_bytes(attested.intermediate_pem)
    with attested.open(clock=lambda: datetime.now(UTC), certificate=owner) as client:
        client.set_manifest(manifest)
        stored = client.manifest()
        open_store().pin_manifest(stage.host, stored.fingerprint)
        before_key()
        client.set_secrets({KEY_NAME: NewSecret(key=key)})
    attest(stage)  # the state with the key in it is what this client remembers as the newest


def _served_name(model: Path, name: str | None) -> str:
    """The name to serve under. Raises: InputError."""
    found = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", name_of(model)[0]).strip("-_.")[:63] or "model"
    if not _NAME.fullmatch(found):
        raise InputError(
            f"{found!r} is no name for a model: letters, digits, '.', '_' and '-', at most 63; choose one with --name"
        )
    return found
