"""Activates this process as a marble, and prepares the command that takes its place.

The steps are MarbleRun's, and the numbers stand over the code that does them:

1. The marble's id, from its file or new; a key pair and a self-signed certificate for the TLS connection.
2. A signing request with the names it wants, and evidence that binds the TLS certificate and the role of a marble.
3. Activate: the coordinator verifies and appraises the evidence over the connection that shows that certificate.
   While it cannot be reached, has no manifest or is in recovery, try again for a while, and say so. A refusal is final.
4. Keys into memory, files at their paths, environment and arguments as the manifest says.
5. For a foreign server that was told to expect a plaintext model: decrypt it into memory.
6. The caller starts the command in place of this process.

The evidence that this side sends is worth nothing to anybody else, since it binds this side's key. But whoever answers in
the coordinator's place chooses what this process becomes. So before (3) the coordinator is checked (`recognise`): its
evidence where a package is pinned, its key where a certificate is given. Nothing is sent to one that fails.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from shutil import which
from typing import Any

from grpclib.client import Channel, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from tacit.client.address import Address, parse_address
from tacit.client.connect import NONCE_SIZE
from tacit.errors import ActivationError, TlsError, UnreachableError
from tacit.evidence import Role, report_data
from tacit.evidence.claims import Issuer
from tacit.marble.activate import (
    DECRYPT_VARIABLE,
    UNATTESTED,
    Settings,
    appraised_tee,
    build_request,
    choose_command,
    choose_encrypted,
    compose_environment,
    find_base_path,
    make_uuid,
    open_encrypted,
    parse_response,
)
from tacit.marble.place import (
    Say,
    decrypt_model,
    load_or_store_uuid,
    make_memory_folder,
    remove_memory_folder,
    require_memory_for_model,
    store_files,
    wait_for_file,
)
from tacit.marble.recognise import MESH_PORT, KnownKey, NotYet, Pinned, Recognition, attest_pinned, require_recognition
from tacit.marble.write import store_key
from tacit.pki import KeyPair, issue_self_signed
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.pki.tls import known_key_client_context, unverified_client_context
from tacit.vault import require_tmpfs

ATTEMPT_SECONDS = 30.0  # for one call; an activation takes milliseconds
SHORTEST_ATTEMPT = 1.0  # seconds; the last attempt is not cut off before it could have succeeded
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between attempts
WRONG_STATE = "cannot accept marbles in current state"  # MarbleRun's words for one without a manifest, or in recovery
_MAX_REFUSAL = 1000  # characters of what somebody else says
_PLAIN_HTTP = "Received :status"  # how grpclib begins to tell of an HTTP status that gRPC never has
KEY_FILE = Path("model_key")  # where the demo's manifest puts the model's key, in base64
OWN_SERVER = "tacit-serve"
REPLACED_SERVER = "tensorflow_model_server"


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start in this process's place: a program, its arguments (the first is its name) and its environment."""

    program: str
    argv: tuple[str, ...]
    environment: Mapping[bytes, bytes] = field(repr=False)
    memory: Path | None = None
    """The folder with the marble's keys, if there is one."""


class _RawCodec(CodecBase):
    """Messages as they are: they were encoded in `activate`, which is pure."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        """The message itself."""
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> bytes:
        """The message itself."""
        return data


def prepare(
    settings: Settings,
    issuer: Issuer | None,
    recognition: Recognition,
    *,
    command: Sequence[str],
    inherited: Mapping[str, str],
    programs: Path,
    now: datetime,
    randomness: Callable[[int], bytes],
    say: Say,
) -> Launch:
    """Activate, place what came, and give the command to start. Without `issuer` no evidence is sent.

    `recognition` says which coordinator is obeyed.

    `programs` is the folder of this installation's programs, which an attested command finds first.

    Raises:
        UsageError: a real TEE, and no coordinator pinned.
        EvidenceError, AppraisalError, RollbackError, PinMismatchError, TlsError: another coordinator than expected.
        ActivationError: the coordinator refuses, or gave what cannot be carried out.
        UnreachableError: no coordinator with a manifest within the time that the settings allow.
        FileInputError: a file of the manifest cannot be placed.
        PlaintextError: a key or a model would not have been in memory.
    """
    require_recognition(None if issuer is None else issuer.tee, recognition)
    if issuer is not None:
        require_tmpfs(settings.memory)  # before an activation is spent
    uuid, kept = load_or_store_uuid(settings.uuid_file, make_uuid(randomness(16)), say)  # (1)
    say(f"id {uuid}, {'from' if kept else 'new, kept in'} {settings.uuid_file}")
    response = _activate(settings, issuer, recognition, uuid=uuid, now=now, randomness=randomness, say=say)
    activation = parse_response(response)
    tee = appraised_tee(UNATTESTED if issuer is None else str(issuer.tee), activation)
    say(f"activated as {settings.marble_type}, {tee.upper()}")
    chosen = choose_command(activation, command, tee=tee)
    made = make_memory_folder(settings.memory, uuid) if activation.keys or tee != UNATTESTED else None
    memory = settings.memory if made is None else made
    try:
        for model, key in activation.keys.items():  # (4)
            store_key(memory / "keys" / model, key)
        store_files(activation.files, say)
        environment = compose_environment(activation, inherited, tee=tee, programs=programs, memory=memory)
        program, argv = _find_program(chosen, environment, programs, say)
        encrypted = choose_encrypted(settings, activation, tee=tee)
        if encrypted is not None:
            argv = _provide_model(encrypted, program, argv, say)  # (5)
    except BaseException:  # the end by a signal too
        remove_memory_folder(made)
        raise
    if encrypted is None and settings.decrypt_model:
        say(
            f"warning: {DECRYPT_VARIABLE} of this environment is passed over: an attested server's model is the manifest's "
            "choice; set it in the marble's Env"
        )
    return Launch(program, argv, environment, made)


def _activate(
    settings: Settings,
    issuer: Issuer | None,
    recognition: Recognition,
    *,
    uuid: str,
    now: datetime,
    randomness: Callable[[int], bytes],
    say: Say,
) -> bytes:
    """Steps 1 to 3: the coordinator's answer."""
    identity = issue_self_signed(settings.names, common_name="MarbleRun Marble", now=now)
    csr = create_csr(generate_key(), settings.names)  # (2)
    evidence = b""
    if issuer is None:
        say("warning: UNATTESTED: no evidence is sent; only a coordinator in unattested mode will activate this")
    else:
        evidence = issuer.issue_evidence(report_data(role=Role.MARBLE, key=identity.certificate_der))
    request = build_request(evidence=evidence, csr=csr, marble_type=settings.marble_type, uuid=uuid)
    address = parse_address(settings.coordinator, default_port=MESH_PORT)
    recognise = _Recognizer(recognition, identity, now=now, randomness=randomness, say=say)
    say(f"activating as {settings.marble_type} at {address}")

    def attempt(seconds: float) -> bytes:
        return asyncio.run(_call(address, request, recognise.context(seconds), seconds=seconds))  # (3)

    return fetch_activation(attempt, patience=settings.patience, randomness=randomness, say=say)


class _Recognizer:
    """TLS to the mesh port of the one coordinator that may be obeyed, made anew for each attempt."""

    def __init__(
        self,
        recognition: Recognition,
        identity: KeyPair,
        *,
        now: datetime,
        randomness: Callable[[int], bytes],
        say: Say,
    ) -> None:
        self._recognition = recognition
        self._identity = identity
        self._now = now
        self._randomness = randomness
        self._say = say
        self._said = ""
        if not isinstance(recognition, KnownKey | Pinned):
            say(
                "warning: nothing says which coordinator to expect; TACIT_COORDINATOR_PACKAGE names the program that it "
                "has to be, TACIT_COORDINATOR_CERTIFICATE its certificate"
            )

    def context(self, seconds: float) -> ssl.SSLContext:
        """A context whose handshake fails with any other, before a byte is sent. Raises: NotYet, TacitError."""
        own, alpn = self._identity, ("h2",)
        if isinstance(self._recognition, KnownKey):
            return known_key_client_context(known_pem=self._recognition.certificates_pem, certificate=own, alpn=alpn)
        if isinstance(self._recognition, Pinned):
            nonce = self._randomness(NONCE_SIZE)
            found = attest_pinned(self._recognition, now=self._now, nonce=nonce, timeout=seconds)
            line = f"the coordinator at {found.host} is the pinned one, {found.tee.upper()}, with state {found.epoch}"
            if line != self._said:
                self._said = line
                self._say(line)
            return known_key_client_context(known_pem=found.intermediate_pem, certificate=own, alpn=alpn)
        return unverified_client_context(certificate=own, alpn=alpn)


def fetch_activation(
    attempt: Callable[[float], bytes], *, patience: float, randomness: Callable[[int], bytes], say: Say
) -> bytes:
    """The coordinator's answer, waiting up to `patience` seconds for one that can give it.

    `attempt` is given the seconds that it may take. What stands in the way is said once, until it is something else.

    Raises:
        ActivationError: refused.
        UnreachableError: nobody could activate in time.
        TacitError: the coordinator is not the one to be obeyed.
    """
    deadline, pause, said = time.monotonic() + patience, FIRST_PAUSE, ""
    while True:
        left = deadline - time.monotonic()
        try:
            return attempt(min(max(left, SHORTEST_ATTEMPT), ATTEMPT_SECONDS))
        except NotYet as reason:
            # Half of a pause is by chance, so that servers which lost one coordinator do not all come back at once.
            wait = pause * (0.5 + randomness(1)[0] / 510)
            if time.monotonic() + wait > deadline:
                raise UnreachableError(
                    f"{reason}; waited {patience:.0f} s (TACIT_ACTIVATION_TIMEOUT). Is the coordinator running there, "
                    "with a manifest set?"
                ) from reason
            if str(reason) != said:
                said = str(reason)
                say(f"{said}; trying again for up to {max(left, 0):.0f} s")
        time.sleep(wait)
        pause = min(pause * 1.5, LONGEST_PAUSE)


async def _call(address: Address, request: bytes, tls: ssl.SSLContext, *, seconds: float) -> bytes:
    """One attempt. Raises: NotYet, ActivationError, TlsError."""
    # What a connection's end meets in asyncio is told by the call that waits for it, and not with a traceback beside it.
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    channel = Channel(address.host, address.port, ssl=tls, codec=_RawCodec())
    try:
        method = UnaryUnaryMethod[Any, Any](channel, "/rpc.Marble/Activate", bytes, bytes)
        return bytes(await method(request, timeout=seconds))
    except GRPCError as exc:
        message = (exc.message or exc.status.name)[:_MAX_REFUSAL]
        if exc.status is Status.UNAVAILABLE or (exc.status, message) == (Status.FAILED_PRECONDITION, WRONG_STATE):
            raise NotYet(f"the coordinator at {address} answers: {message}") from exc
        if message.startswith(_PLAIN_HTTP):
            raise ActivationError(
                f"{address} answers by HTTP and not by gRPC ({message}): is it a coordinator's client API? Marbles ask its "
                "mesh port, 2001 unless it was told otherwise"
            ) from exc
        raise ActivationError(f"the coordinator at {address} refuses: {message}") from exc
    except ssl.SSLEOFError as exc:  # one that is just starting or ending
        raise NotYet(f"the coordinator at {address} ends the connection inside TLS") from exc
    except ssl.SSLError as exc:
        raise TlsError(
            f"TLS with {address} failed ({exc.reason or exc}); is that the coordinator's mesh port?"
        ) from exc
    except TimeoutError as exc:
        raise NotYet(f"the coordinator at {address} does not answer") from exc
    except (OSError, StreamTerminatedError, ProtocolError) as exc:
        detail = getattr(exc, "strerror", None) or str(exc)
        raise NotYet(f"no coordinator answers at {address} ({detail})") from exc
    except Exception as exc:  # grpclib lets through whatever an answer that is none provokes, of any class
        detail = f"{type(exc).__name__} {exc}".strip()[:_MAX_REFUSAL]
        raise NotYet(
            f"{address} answers with what is no activation ({detail}); is a coordinator's mesh port there?"
        ) from exc
    finally:
        await _end(channel)


async def _end(channel: Channel) -> None:
    """Drop the connection at once: the loop ends with the activation, and would not see a polite end through."""
    # A connection that the other end closed has no transport any more.
    transport = getattr(getattr(channel._protocol, "connection", None), "_transport", None)
    if transport is not None:
        transport.abort()
    channel.close()
    await asyncio.sleep(0)


def _find_program(
    argv: tuple[str, ...], environment: Mapping[bytes, bytes], programs: Path, say: Say
) -> tuple[str, tuple[str, ...]]:
    """Where the command lies, looked up as a shell does in its own PATH. Raises: ActivationError."""
    path = environment.get(b"PATH", b"").decode("utf-8", "surrogateescape")
    found = which(argv[0], path=path)
    if found is None and argv[0] == REPLACED_SERVER and (programs / OWN_SERVER).is_file():
        say(f"{REPLACED_SERVER} is not installed; {OWN_SERVER} takes its flags and its place")
        argv = (OWN_SERVER, *argv[1:])
        found = str(programs / OWN_SERVER)
    if found is None:
        why = "it is not there, or no program" if "/" in argv[0] else f"no such program in {path or 'an empty PATH'}"
        raise ActivationError(f"cannot start {argv[0]!r}, as the manifest or the command line has it: {why}")
    return found, argv


def _provide_model(encrypted: Path, program: str, argv: tuple[str, ...], say: Say) -> tuple[str, ...]:
    """Step 5: the arguments, once the model is where they say; our own server opens the encrypted one itself."""
    base = find_base_path(argv)
    if Path(program).name == OWN_SERVER:
        return open_encrypted(argv, encrypted, KEY_FILE)
    folder = require_memory_for_model(base)
    wait_for_file(encrypted, say)
    decrypt_model(encrypted, KEY_FILE, folder)
    say(f"decrypted {encrypted} into memory at {folder}")
    return argv
