"""The coordinator: every question that can be put to it, as a method, on values.

Reading takes the newest `Holdings` as they are and waits for nobody. Changing goes one way only, `_commit`: under one
lock the change is made from what is held now, stored and synced, and only then held. So a budget of activations cannot
be overdrawn by callers that come at once, and what could not be stored has not happened. With each change goes its
entry in the audit log; releases and reads, which change nothing, are answered for once their entry is stored too.

Methods may be called from any thread.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from tacit.coordinator.access import (
    MONOTONIC_COUNTER,
    SIGN_QUOTE,
    authenticate,
    authenticate_marble,
    require_feature,
    require_read,
    require_write,
)
from tacit.coordinator.activate import (
    Order,
    Permission,
    Release,
    Verifier,
    parse_uuid,
    permit,
    rehearse,
    release,
    require_budget,
    require_known_type,
)
from tacit.coordinator.log import EventLog
from tacit.coordinator.log.entries import (
    Entry,
    manifest_set,
    marble_activated,
    secrets_read,
    secrets_set,
    state_recovered,
)
from tacit.coordinator.log.journal import Journal
from tacit.coordinator.log.lines import manifest_set_line, secret_set_line
from tacit.coordinator.sealed.changes import replay
from tacit.coordinator.sealed.keys import SEALED_TO
from tacit.coordinator.sealed.records import KEY_SIZE, Contents, Position
from tacit.coordinator.sealed.shares import share_key
from tacit.coordinator.secrets import (
    ROOT_SECRET_SIZE,
    NewValue,
    Secret,
    check_own_rules,
    generate_shared,
    parse_new_values,
)
from tacit.coordinator.state import (
    STATUS_TEXT,
    Activated,
    CounterRaised,
    Event,
    Holdings,
    Identity,
    SecretsSet,
    State,
    advance,
)
from tacit.coordinator.store import Store
from tacit.coordinator.updates.audit import Audit
from tacit.coordinator.updates.ledger import Held, Ledger, Step, manifest_of
from tacit.coordinator.updates.recovery import Recovery, is_in_clear, undecryptable
from tacit.coordinator.updates.steps import Tools, Updates
from tacit.errors import (
    CollateralAbsentError,
    EvidenceError,
    FieldError,
    IllegalTransitionError,
    InputError,
    ManifestError,
    NotSetError,
    PkiError,
    PlatformError,
    SecretError,
    StateError,
    TacitError,
)
from tacit.evidence import Claims, Role, report_data
from tacit.evidence.claims import Issuer
from tacit.manifest import Manifest, Unattested, check_manifest, parse_manifest
from tacit.manifest.material import check_material
from tacit.pki import issue_intermediate, issue_marble_root, issue_root
from tacit.pki.leaf import LeafIdentity
from tacit.wire.log import LogMark, LogPosition, log_mark_message
from tacit.wire.rest import BAD_STATE, state_mark_message

MAX_COUNTER_NAME = 1024  # bytes
MAX_COUNTERS = 1000  # of one marble


@dataclass(frozen=True, slots=True)
class Settings:
    """What a coordinator is told at its start.

    `tee` is what it says of itself in its status; `mark` stands in every certificate that it issues where the TEE is
    not a real one; `names` are the DNS names and addresses of its own certificates. `environ` has the names of variables
    that are set, for features of a manifest that need some; not their values.
    """

    names: tuple[str, ...] = ("localhost",)
    tee: str = "unattested"
    mark: str | None = "UNATTESTED"
    environ: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class World:
    """What a coordinator reaches: its TEE, the verifier of marbles, the clock and the source of randomness.

    `issuer` and `verify` are None together, in unattested mode. `judge` verifies quotes that callers want signed, of
    whatever they are bound to; None where there is nothing to verify them by.
    """

    issuer: Issuer | None
    verify: Verifier | None
    clock: Callable[[], datetime]
    random: Callable[[int], bytes]
    log: EventLog
    judge: Callable[[bytes], Claims] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The state with its words, and where the sealed state and its log stand, each signed by the root key."""

    state: State
    message: str
    tee: str
    position: Position
    signature: bytes
    log: LogPosition
    log_signature: bytes


@dataclass(frozen=True, slots=True)
class QuoteAnswer:
    """Certificates (PEM, intermediate then root) and evidence for the root; None in unattested mode."""

    chain_pem: bytes
    evidence: bytes | None


@dataclass(frozen=True, slots=True)
class SignedQuote:
    """The TCB status of a quote that was verified, and the root key's signature over both."""

    tcb_status: str
    signature: bytes


@dataclass(frozen=True, slots=True)
class _Cached:
    """Something that was signed, and for what; `further` is a second signature over the same and more."""

    key: object = None
    value: bytes = field(default=b"", repr=False)
    further: bytes = field(default=b"", repr=False)


class Coordinator:
    """One coordinator. `contents` is what its folder held; None for an empty one."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        world: World,
        *,
        contents: Contents | None = None,
        recovery: bool = False,
    ) -> None:
        if (world.issuer is None) is not (world.verify is None):
            raise StateError("a coordinator has both a TEE and a verifier, or neither")
        self._store = store
        self._settings = settings
        self._world = world
        replayed = None if contents is None else replay(contents.payloads)
        if replayed is None:
            holdings = Holdings(State.RECOVERY if recovery else State.ACCEPTING_MANIFEST, self._new_identity())
        else:
            holdings = replayed.holdings
        held = Held(holdings, store.position, Journal(b""))
        self._ledger = Ledger(store, held, clock=world.clock, random=world.random, log=world.log)
        if replayed is not None and contents is not None:
            self._ledger.open(holdings, replayed.journal, version=contents.start.version)
        tools = Tools(world.clock, world.random, world.log, self._renew_identity, settings.environ)
        self.updates = Updates(self._ledger, tools)
        self.audit = Audit(self._ledger, self._mark_log, clock=world.clock, log=world.log)
        self._signed_head = _Cached()
        self._quote = _Cached()
        self._recovery = Recovery(store)

    @property
    def holdings(self) -> Holdings:
        """What is held now."""
        return self._ledger.holdings

    def now(self) -> datetime:
        """The time, as this coordinator has it."""
        return self._world.clock()

    # ---- reading

    def status(self) -> Status:
        """Which state, and where the sealed state stands."""
        held = self._ledger.held
        signed = self._sign_heads(held)
        return Status(
            held.holdings.state,
            STATUS_TEXT[held.holdings.state],
            self._settings.tee,
            held.position,
            signed.value,
            held.journal.position,
            signed.further,
        )

    def quote(self, nonce: bytes = b"", channel: bytes = b"") -> QuoteAnswer:
        """Evidence for the root certificate; a fresh one where a nonce is given, also bound to `channel` if that is too."""
        identity = self.holdings.identity
        chain = identity.intermediate.certificate_pem + identity.root.certificate_pem
        issuer = self._world.issuer
        if issuer is None:
            return QuoteAnswer(chain, None)
        root = identity.root.certificate_der
        if nonce:
            fresh = issuer.issue_evidence(report_data(role=Role.COORDINATOR, key=root, nonce=nonce, channel=channel))
            return QuoteAnswer(chain, fresh)
        cached = self._quote
        if cached.key != root:
            cached = _Cached(root, issuer.issue_evidence(report_data(role=Role.COORDINATOR, key=root)))
            self._quote = cached
        return QuoteAnswer(chain, cached.value)

    def manifest(self) -> tuple[bytes, bytes]:
        """The manifest as it was uploaded, and the root key's signature over it.

        Raises:
            NotSetError: there is none yet.
        """
        holdings = self.holdings
        if holdings.manifest is None:
            raise NotSetError("requested value not set")
        return holdings.manifest.raw, holdings.signature

    def update_log(self) -> tuple[str, ...]:
        """The lines of the update log.

        Raises:
            IllegalTransitionError: no manifest is set.
        """
        holdings = self.holdings
        advance(holdings.state, Event.READ_LOG)
        return holdings.update_log

    def authenticate(self, certificate: bytes | None) -> str:
        """The user with this client certificate (DER).

        Raises:
            UnauthorizedError: there is none.
        """
        return authenticate(self.holdings.manifest, certificate)

    def read_secrets(self, user: str, names: Sequence[str]) -> dict[str, Secret]:
        """Secrets that a user may read, by name.

        Raises:
            ForbiddenError: one of them the user may not read, or does not exist; nothing is given then.
            StateError: the reading could not be written down; nothing is given.
        """
        holdings, manifest = self._ledger.opened(Event.READ_SECRETS)
        require_read(manifest, user, names)
        read = sorted(set(names))
        self._ledger.note(secrets_read(user=user, names=read))
        self._world.log.info("secrets read", user=user, secrets=read)
        return {name: holdings.secrets[name] for name in read}

    def authenticate_marble(self, certificate: bytes | None) -> LeafIdentity:
        """The activated marble with this client certificate (DER), where the manifest has counters at all.

        Raises:
            FeatureOffError: it has not.
            UnauthorizedError: no certificate, or not that of a marble.
        """
        holdings = self.holdings
        require_feature(holdings.manifest, MONOTONIC_COUNTER)
        issuer = holdings.identity.marble_root.certificate
        return authenticate_marble(certificate, issuer=issuer, now=self._world.clock())

    def require_quote_signing(self) -> None:
        """Refuse to sign quotes unless the manifest says so. Raises: FeatureOffError."""
        require_feature(self.holdings.manifest, SIGN_QUOTE)

    def sign_quote(self, quote: bytes) -> SignedQuote:
        """What the verifier says of a quote, signed by the root key: SHA-256 over the quote in base64 and the status.

        Whether the manifest allows what the quote shows is not asked; neither is whose key it is bound to.

        Raises:
            FeatureOffError: the manifest does not switch it on.
            FieldError: it could not be verified.
        """
        self.require_quote_signing()
        try:
            if not quote:
                raise EvidenceError("empty report")
            if self._world.judge is None:
                raise EvidenceError("OE_UNSUPPORTED")
            status = self._world.judge(quote).tcb_status
        except (PlatformError, CollateralAbsentError) as exc:
            # What is wrong with its own folder, or whom it asks, is for the operator, not for whoever asks.
            self._world.log.error("no quote can be verified", error=str(exc))
            detail = "quote verification failed: the coordinator has no collateral at this time"
            raise FieldError("quote verification failed", field="sgxQuote", detail=detail) from exc
        except EvidenceError as exc:
            refused = "quote verification failed"
            raise FieldError(refused, field="sgxQuote", detail=f"{refused}: {exc}") from exc
        signed = base64.b64encode(quote) + status.encode()
        self._world.log.info("quote signed", tcbStatus=status)
        return SignedQuote(status, self.holdings.identity.root_key.sign(signed, ECDSA(SHA256())))

    # ---- changing

    def set_manifest(self, raw: bytes) -> dict[str, bytes]:
        """Set the manifest; gives the recovery secrets, encrypted, by the names of the recovery keys.

        Raises:
            IllegalTransitionError: there is one already.
            ManifestError: it was refused; says where and why.
            StateError: it could not be stored.
        """
        world = self._world
        with self._ledger.lock:
            before = self.holdings
            after_state = advance(before.state, Event.SET_MANIFEST)
            manifest = self._accept(raw)
            now = world.clock()
            secrets = self._first_secrets(manifest, now)
            root_secret = world.random(ROOT_SECRET_SIZE)
            holdings = Holdings(
                state=after_state,
                identity=before.identity,
                manifest=manifest,
                signature=before.identity.root_key.sign(raw, ECDSA(SHA256())),
                secrets=secrets,
                previous_secrets=secrets,
                root_secret=root_secret,
                previous_root_secret=root_secret,
                update_log=(manifest_set_line(now),),
            )
            rehearse(holdings, manifest, secrets=secrets, random=world.random)
            key = world.random(KEY_SIZE)
            shares, plan = share_key(key, manifest, random=world.random)
            entry = manifest_set(fingerprint=sha256(raw).hexdigest(), recovered_over=before.state is State.RECOVERY)
            self._ledger.begin(holdings, entry, key=key, plan=plan, bound_to=SEALED_TO[manifest.config.seal_mode])
            self._recovery.forget()
        world.log.info("manifest set", marbles=sorted(manifest.marbles), epoch=self._ledger.held.position.epoch)
        return shares

    def recovery_key(self) -> bytes:
        """The public key (PKIX DER) to which recovery secrets may be encrypted.

        Raises:
            IllegalTransitionError: nothing waits for recovery.
        """
        with self._ledger.lock:
            advance(self.holdings.state, Event.FETCH_RECOVERY_KEY)
            return self._recovery.public_key()

    def recover(self, secret: bytes, signature: bytes) -> int:
        """Take a recovery secret with its holder's signature; how many remain. With none, the state is open.

        Raises:
            IllegalTransitionError: nothing waits for recovery.
            InputError: the secret cannot be decrypted.
            RecoveryError: it does not open the state, or not for whoever gave it.
            StateError: the state or its folder cannot be used.
        """
        with self._ledger.lock:
            try:
                advance(self.holdings.state, Event.RECOVER)
            except IllegalTransitionError as exc:
                raise exc if is_in_clear(secret) else undecryptable(BAD_STATE) from exc
            found = self._recovery.offer(secret, signature)
            if found.holdings is not None:
                mode = manifest_of(found.holdings).config.seal_mode
                self._store.adopt(found.key, bound_to=SEALED_TO[mode])
                self._ledger.open(found.holdings, found.journal, version=found.version)
                # It is open from here on, whatever becomes of the entry.
                self._ledger.note_or_owe(state_recovered(given=found.given, refused=found.refused))
                self._recovery.forget()
        self._world.log.info("recovery secret taken", remaining=found.remaining)
        return found.remaining

    def write_secrets(self, user: str, values: Mapping[str, NewValue]) -> None:
        """Set user-defined secrets, all or none.

        Raises:
            SecretError: a value does not fit the manifest's rule.
            TemplateError: a template could not be filled in with it.
            ForbiddenError: the user may not set one of them.
        """
        world = self._world

        def build(holdings: Holdings) -> Step:
            manifest = manifest_of(holdings)
            try:
                parsed = parse_new_values(manifest, holdings.secrets, values)
            except SecretError as exc:
                raise SecretError(f"parsing new secrets: {exc}") from exc
            proposed = {**holdings.secrets, **parsed}
            rehearse(holdings, manifest, secrets=proposed, random=world.random, only=frozenset(parsed))
            require_write(manifest, user, parsed)
            now = world.clock()
            lines = (secret_set_line(now, user=user, secret=name, type_=one.type) for name, one in parsed.items())
            return SecretsSet(parsed, tuple(lines)), (secrets_set(user=user, names=list(parsed)),)

        self._ledger.opened(Event.WRITE_SECRETS)
        self._ledger.commit(build)
        world.log.info("secrets set", user=user, secrets=sorted(values))

    def raise_counter(self, marble: LeafIdentity, name: str, value: int) -> int:
        """Set a marble's counter if the value is greater; what it was before, 0 at first. It never goes back.

        Raises:
            InputError: a name too long, or more counters than one marble may have.
            StateError: it could not be stored, and is what it was.
        """
        if len(name.encode()) > MAX_COUNTER_NAME:
            raise InputError(f"the name of a counter has at most {MAX_COUNTER_NAME} bytes")
        with self._ledger.lock:
            # Compared and stored under one lock, so that of several callers at once none gets lost.
            counters = self.holdings.counters.get((marble.marble_type, marble.uuid), {})
            before = counters.get(name, 0)
            if value > before:
                if name not in counters and len(counters) >= MAX_COUNTERS:
                    raise InputError(f"a marble has at most {MAX_COUNTERS} counters")
                self._ledger.change(CounterRaised(marble.marble_type, marble.uuid, name, value))
        return before

    def activate(self, order: Order) -> Release:
        """What a marble gets, if its evidence is that of an allowed package.

        Raises:
            IllegalTransitionError: no manifest is set.
            ActivationError: the manifest or the evidence does not allow it.
            InputError: not a UUID.
            PkiError: the signing request cannot be used.
            TemplateError: the manifest's templates cannot be filled in.
            StateError: the activation could not be counted; nothing is released.
        """
        world = self._world
        try:
            released, entry = self._activate(order)
        except TacitError as exc:
            world.log.warning(
                "activation refused", marbleType=order.marble_type[:200], reason=exc.reason, error=str(exc)
            )
            self.audit.write(self.audit.activation_refused(order, exc))
            raise
        world.log.info(entry.event, **entry.fields)
        return released

    def _activate(self, order: Order) -> tuple[Release, Entry]:
        holdings, manifest = self._ledger.opened(Event.ACTIVATE)
        marble = require_known_type(manifest, order.marble_type)
        require_budget(holdings, order.marble_type, marble)
        permission = permit(manifest, marble, order, verify=self._world.verify)
        uuid = parse_uuid(order.uuid)
        released = release(
            permission,
            holdings,
            manifest,
            order,
            uuid=uuid,
            now=self._world.clock(),
            mark=self._settings.mark,
        )
        entry = _activation(released, permission, order, marble.package)
        if not marble.max_activations:
            self._ledger.note(entry)
            return released, entry

        def build(now_held: Holdings) -> Step:
            # Asked again: others may have come first since.
            require_budget(now_held, order.marble_type, marble)
            return Activated(order.marble_type, uuid), (entry,)

        self._ledger.commit(build)
        return released, entry

    # ---- inside

    def _sign_heads(self, held: Held) -> _Cached:
        """The root key's signatures over where the state stands, and over where its log stands with it."""
        key = (held.holdings.identity.root.certificate, held.position)
        cached = self._signed_head
        if cached.key != key:
            root_key, position = held.holdings.identity.root_key, held.position
            state = state_mark_message(position.epoch, position.head)
            log = log_mark_message(held.journal.position, position.epoch, position.head)
            cached = _Cached(key, root_key.sign(state, ECDSA(SHA384())), root_key.sign(log, ECDSA(SHA384())))
            self._signed_head = cached
        return cached

    def _mark_log(self, held: Held) -> LogMark:
        position, state = held.journal.position, held.position
        signature = self._sign_heads(held).further
        return LogMark(position.number, position.head.hex(), state.epoch, state.head.hex(), signature)

    def _accept(self, raw: bytes) -> Manifest:
        parsed = parse_manifest(raw)
        for leniency in parsed.leniencies:
            self._world.log.warning("manifest read leniently", at=leniency)
        manifest = parsed.manifest
        try:
            warnings = check_manifest(manifest, environ=self._settings.environ)
        except ManifestError as exc:
            raise ManifestError(f"checking manifest: {exc}") from exc
        for warning in warnings:
            self._world.log.warning("manifest checked", warning=warning)
        return manifest

    def _first_secrets(self, manifest: Manifest, now: datetime) -> dict[str, Secret]:
        check_material(manifest)
        issuer = self.holdings.identity.marble_root
        try:
            check_own_rules(manifest, issuer=issuer, now=now)
            return generate_shared(manifest, issuer=issuer, now=now, random=self._world.random)
        except (PkiError, SecretError) as exc:
            raise ManifestError(f"generating secrets from manifest: {exc}") from exc

    def _renew_identity(self, identity: Identity) -> Identity:
        now, names, mark = self._world.clock(), self._settings.names, self._settings.mark
        intermediate = issue_intermediate(identity.root, names, now=now, mark=mark)
        return Identity(identity.root, intermediate, issue_marble_root(intermediate, now=now))

    def _new_identity(self) -> Identity:
        now, names, mark = self._world.clock(), self._settings.names, self._settings.mark
        root = issue_root(names, now=now, mark=mark)
        intermediate = issue_intermediate(root, names, now=now, mark=mark)
        return Identity(root, intermediate, issue_marble_root(intermediate, now=now))


def _activation(released: Release, permission: Permission, order: Order, package: str) -> Entry:
    claims = None if isinstance(permission, Unattested) else permission.claims
    return marble_activated(
        marble_type=order.marble_type,
        uuid=released.uuid,
        package=package,
        tee="unattested" if claims is None else str(claims.tee),
        measurement="" if claims is None else claims.measurement.hex(),
        secrets=released.secret_names,
    )
