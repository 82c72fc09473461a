"""`tacit up MODEL`: one's own model, encrypted, attested and served on this machine by one command."""

import contextlib
import os
import re
import secrets
import signal
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.platform import ensure_platform, package_of
from tacit.cli.trust import open_store
from tacit.cli.up.examples import describe
from tacit.cli.up.processes import Programs
from tacit.cli.up.stage import KEY_NAME, Stage
from tacit.client.connect import NONCE_SIZE, AttestedCoordinator, attest_coordinator, load_simulated_expectation
from tacit.client.coordinator import CoordinatorClient, NewSecret
from tacit.errors import ConnectError, FileInputError, InputError, NotTrustedError
from tacit.pki import KeyPair, issue_self_signed
from tacit.vault.files import seal_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_VERSION = 1


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
    served_as = _served_name(model, name)
    platform = ensure_platform()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's "end" cleans up as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="tacit-up-") as place, Programs(Path(place) / "logs") as programs:
        folder = Path(place)
        stage = Stage(folder, platform, served_as, folder / f"{served_as}.capsule")
        typer.echo(
            f"SIMULATED TEE: the whole way is real, the protection is not. Everything lies in {folder} until the end."
        )
        key = secrets.token_bytes(32)  # in memory alone: it goes to the coordinator and is never written
        info = seal_folder(model, stage.capsule, key, name=served_as, version=_VERSION)
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
        roots = folder / "servers.crt"
        roots.write_bytes(attested.intermediate_pem)
        typer.echo(describe(stage, roots))
        if once:
            return
        typer.echo("Ctrl-C ends everything.")
        while server.exit_code() is None and coordinator.exit_code() is None:
            time.sleep(0.5)
        ended = server if server.exit_code() is not None else coordinator
        raise ConnectError(f"{ended.name} ended by itself; its last lines:\n{ended.last_lines()}")


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
    manifest = stage.manifest(
        package_of("marble", stage.platform),
        model_id=model_id,
        version=_VERSION,
        owner_pem=owner.certificate_pem.decode(),
    )
    with CoordinatorClient(stage.host, roots_pem=attested.root_pem, certificate=owner) as client:
        client.set_manifest(manifest)
        stored = client.manifest()
        open_store().pin_manifest(stage.host, stored.fingerprint)
        before_key()
        client.set_secrets({KEY_NAME: NewSecret(key=key)})
    attest(stage)  # the state with the key in it is what this client remembers as the newest


def _served_name(model: Path, name: str | None) -> str:
    """The name to serve under. Raises: FileInputError, InputError."""
    if not model.exists():
        raise FileInputError(f"{model} does not exist; give an ONNX file, a SavedModel folder, a frozen graph or an IR")
    found = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", model.resolve().stem).strip("-.") or "model"
    if not _NAME.fullmatch(found):
        raise InputError(
            f"{found!r} is no name for a model: letters, digits, '.', '_' and '-', at most 63; choose one with --name"
        )
    return found
