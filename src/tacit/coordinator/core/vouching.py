"""What does a coordinator vouch for? Its state and its log, its root by evidence, and quotes that it verified."""

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from tacit.coordinator.access import SIGN_QUOTE, require_feature
from tacit.coordinator.core.world import Settings, World
from tacit.coordinator.sealed.records import Position
from tacit.coordinator.state import STATUS_TEXT, State
from tacit.coordinator.updates.ledger import Held, Ledger
from tacit.errors import CollateralAbsentError, EvidenceError, FieldError, PlatformError
from tacit.evidence import Role, report_data
from tacit.wire.log import LogMark, LogPosition, log_mark_message
from tacit.wire.rest import state_mark_message


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


class Vouching:
    """Answers for what a ledger holds, each with the root key or with evidence behind it."""

    def __init__(self, ledger: Ledger, settings: Settings, world: World) -> None:
        self._ledger = ledger
        self._settings = settings
        self._world = world
        self._signed_head = _Cached()
        self._quote = _Cached()

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
        identity = self._ledger.holdings.identity
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

    def require_quote_signing(self) -> None:
        """Refuse to sign quotes unless the manifest says so. Raises: FeatureOffError."""
        require_feature(self._ledger.holdings.manifest, SIGN_QUOTE)

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
        return SignedQuote(status, self._ledger.holdings.identity.root_key.sign(signed, ECDSA(SHA256())))

    def mark_log(self, held: Held) -> LogMark:
        """Where the log stands, signed."""
        position, state = held.journal.position, held.position
        signature = self._sign_heads(held).further
        return LogMark(position.number, position.head.hex(), state.epoch, state.head.hex(), signature)

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
