"""Every question that can be put to a coordinator, as a method, on values.

Reading takes the newest `Holdings` as they are and waits for nobody. Changing goes one way only, the ledger's: under one
lock the change is made from what is held now, stored and synced, and only then held. So a budget of activations cannot
be overdrawn by callers that come at once, and what could not be stored has not happened. With each change goes its
entry in the audit log; releases and reads, which change nothing, are answered for once their entry is stored too.

Methods may be called from any thread.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from tacit.coordinator.access import (
    MONOTONIC_COUNTER,
    authenticate,
    authenticate_marble,
    require_feature,
    require_read,
    require_write,
)
from tacit.coordinator.activate import Order, Release, rehearse
from tacit.coordinator.core.activations import Activations
from tacit.coordinator.core.founding import Founding, new_identity, renew_identity
from tacit.coordinator.core.vouching import QuoteAnswer, SignedQuote, Status, Vouching
from tacit.coordinator.core.world import Settings, World
from tacit.coordinator.log.entries import counter_raised, secrets_read, secrets_set
from tacit.coordinator.log.journal import Journal
from tacit.coordinator.log.lines import secret_set_line
from tacit.coordinator.sealed.changes import replay
from tacit.coordinator.sealed.records import Contents
from tacit.coordinator.secrets import NewValue, Secret, parse_new_values
from tacit.coordinator.state import CounterRaised, Event, Holdings, Identity, SecretsSet, State, advance
from tacit.coordinator.store import Store
from tacit.coordinator.updates.audit import Audit
from tacit.coordinator.updates.ledger import Held, Ledger, Step, manifest_of
from tacit.coordinator.updates.steps import Tools, Updates
from tacit.errors import InputError, NotSetError, SecretError, StateError
from tacit.pki.leaf import LeafIdentity

MAX_COUNTER_NAME = 1024  # bytes
MAX_COUNTERS = 1000  # of one marble


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
        self._world = world
        replayed = None if contents is None else replay(contents.payloads)
        if replayed is None:
            holdings = Holdings(State.RECOVERY if recovery else State.ACCEPTING_MANIFEST, new_identity(settings, world))
        else:
            holdings = replayed.holdings
        held = Held(holdings, store.position, Journal(b""))
        self._ledger = Ledger(store, held, clock=world.clock, random=world.random, log=world.log)
        if replayed is not None and contents is not None:
            self._ledger.open(holdings, replayed.journal, version=contents.start.version)

        def renew(identity: Identity) -> Identity:
            return renew_identity(identity.root, settings, world)

        tools = Tools(world.clock, world.random, world.log, renew, settings.environ)
        self.updates = Updates(self._ledger, tools)
        self._vouching = Vouching(self._ledger, settings, world)
        self.audit = Audit(self._ledger, self._vouching.mark_log, clock=world.clock, log=world.log)
        self._founding = Founding(store, self._ledger, settings, world)
        self._activations = Activations(self._ledger, self.audit, settings, world)

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
        return self._vouching.status()

    def quote(self, nonce: bytes = b"", channel: bytes = b"") -> QuoteAnswer:
        """Evidence for the root certificate; a fresh one where a nonce is given, also bound to `channel` if that is too."""
        return self._vouching.quote(nonce, channel)

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
        """As `Vouching.require_quote_signing`."""
        self._vouching.require_quote_signing()

    def sign_quote(self, quote: bytes) -> SignedQuote:
        """As `Vouching.sign_quote`, and given once it is written down. Raises: StateError: it could not be."""
        signed = self._vouching.sign_quote(quote)
        self.audit.quote_signed(quote, signed.tcb_status)
        return signed

    # ---- changing

    def set_manifest(self, raw: bytes) -> dict[str, bytes]:
        """As `Founding.set_manifest`."""
        return self._founding.set_manifest(raw)

    def recovery_key(self) -> bytes:
        """As `Founding.recovery_key`."""
        return self._founding.recovery_key()

    def recover(self, secret: bytes, signature: bytes) -> int:
        """As `Founding.recover`."""
        return self._founding.recover(secret, signature)

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
                entry = counter_raised(marble_type=marble.marble_type, uuid=marble.uuid, name=name, value=value)
                self._ledger.change(CounterRaised(marble.marble_type, marble.uuid, name, value), entry)
        return before

    def activate(self, order: Order) -> Release:
        """As `Activations.activate`."""
        return self._activations.activate(order)
