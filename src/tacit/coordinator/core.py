"""The coordinator: every question that can be put to it, as a method, on values.

Reading takes the newest `Holdings` as they are and waits for nobody. Changing goes one way only, `_commit`: under one
lock the change is made from what is held now, stored and synced, and only then held. So a budget of activations cannot
be overdrawn by callers that come at once, and what could not be stored has not happened.

Methods may be called from any thread.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

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
from tacit.coordinator.log import EventLog, manifest_set_line, secret_set_line
from tacit.coordinator.sealed.changes import encode_snapshot, replay
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
    Change,
    CounterRaised,
    Event,
    Holdings,
    Identity,
    SecretsSet,
    State,
    advance,
)
from tacit.coordinator.store import Store
from tacit.coordinator.updates.ledger import Ledger, manifest_of
from tacit.coordinator.updates.recovery import Recovery, is_in_clear, undecryptable
from tacit.coordinator.updates.steps import Tools, Updates
from tacit.errors import (
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
    """The state with its words, and where the sealed state stands, signed by the root key."""

    state: State
    message: str
    tee: str
    position: Position
    signature: bytes


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
    """Something that was signed, and for what."""

    key: object = None
    value: bytes = field(default=b"", repr=False)


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
        if contents is not None:
            holdings = replay(contents.payloads)
        else:
            state = State.RECOVERY if recovery else State.ACCEPTING_MANIFEST
            holdings = Holdings(state, self._new_identity())
        self._ledger = Ledger(store, holdings)
        tools = Tools(world.clock, world.random, world.log, self._renew_identity, settings.environ)
        self.updates = Updates(self._ledger, tools)
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
        holdings, position = self._ledger.held
        key = (holdings.identity.root.certificate, position)
        cached = self._signed_head
        if cached.key != key:
            signed = state_mark_message(position.epoch, position.head)
            cached = _Cached(key, holdings.identity.root_key.sign(signed, ECDSA(SHA384())))
            self._signed_head = cached
        return Status(holdings.state, STATUS_TEXT[holdings.state], self._settings.tee, position, cached.value)

    def quote(self, nonce: bytes = b"") -> QuoteAnswer:
        """Evidence for the root certificate; a fresh one where a nonce is given."""
        identity = self.holdings.identity
        chain = identity.intermediate.certificate_pem + identity.root.certificate_pem
        issuer = self._world.issuer
        if issuer is None:
            return QuoteAnswer(chain, None)
        root = identity.root.certificate_der
        if nonce:
            return QuoteAnswer(chain, issuer.issue_evidence(report_data(role=Role.COORDINATOR, key=root, nonce=nonce)))
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
        """
        holdings, manifest = self._ledger.opened(Event.READ_SECRETS)
        require_read(manifest, user, names)
        self._world.log.info("secrets read", user=user, secrets=sorted(set(names)))
        return {name: holdings.secrets[name] for name in sorted(set(names))}

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
        except PlatformError as exc:
            # What is wrong with its own folder is for the operator, not for whoever asks.
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
            bound_to = SEALED_TO[manifest.config.seal_mode]
            self._store.create(encode_snapshot(holdings), key=key, plan=plan, bound_to=bound_to)
            self._ledger.hold(holdings)
            self._recovery.forget()
        world.log.info("manifest set", marbles=sorted(manifest.marbles), epoch=self._ledger.held[1].epoch)
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
                self._ledger.hold(found.holdings)
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

        def build(holdings: Holdings) -> Change:
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
            return SecretsSet(parsed, tuple(lines))

        self._ledger.opened(Event.WRITE_SECRETS)
        self._commit(build)
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
            released, permission = self._activate(order)
        except TacitError as exc:
            world.log.warning(
                "activation refused", marbleType=order.marble_type[:200], reason=exc.reason, error=str(exc)
            )
            raise
        claims = None if isinstance(permission, Unattested) else permission.claims
        world.log.info(
            "marble activated",
            marbleType=order.marble_type,
            uuid=released.uuid,
            tee="unattested" if claims is None else str(claims.tee),
            measurement="" if claims is None else claims.measurement.hex(),
            secrets=list(released.secret_names),
        )
        return released

    def _activate(self, order: Order) -> tuple[Release, Permission]:
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
        if marble.max_activations:

            def build(now_held: Holdings) -> Change:
                # Asked again: others may have come first since.
                require_budget(now_held, order.marble_type, marble)
                return Activated(order.marble_type, uuid)

            self._commit(build)
        return released, permission

    # ---- inside

    def _commit(self, build: Callable[[Holdings], Change]) -> None:
        """The only way to change what is held: make the change from what is held now, store it, then hold it."""
        with self._ledger.lock:
            self._ledger.change(build(self.holdings))

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
