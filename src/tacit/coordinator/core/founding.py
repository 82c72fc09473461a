"""How does a state come to be? By the first manifest, or by recovery secrets that open what was sealed."""

from datetime import datetime
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.hashes import SHA256

from tacit.coordinator.activate import rehearse
from tacit.coordinator.core.world import Settings, World
from tacit.coordinator.log.entries import manifest_set, state_recovered
from tacit.coordinator.log.lines import manifest_set_line
from tacit.coordinator.sealed.keys import SEALED_TO
from tacit.coordinator.sealed.records import KEY_SIZE
from tacit.coordinator.sealed.shares import share_key
from tacit.coordinator.secrets import ROOT_SECRET_SIZE, Secret, check_own_rules, generate_shared
from tacit.coordinator.state import Event, Holdings, Identity, State, advance
from tacit.coordinator.store import Store
from tacit.coordinator.updates.ledger import Ledger, manifest_of
from tacit.coordinator.updates.recovery import Recovery, is_in_clear, undecryptable
from tacit.errors import IllegalTransitionError, ManifestError
from tacit.manifest import Manifest, check_manifest, parse_manifest
from tacit.manifest.material import check_material
from tacit.pki import KeyPair, issue_intermediate, issue_marble_root, issue_root
from tacit.wire.rest import BAD_STATE


class Founding:
    """Begins the state of a ledger, or opens it again."""

    def __init__(self, store: Store, ledger: Ledger, settings: Settings, world: World) -> None:
        self._store = store
        self._ledger = ledger
        self._settings = settings
        self._world = world
        self._recovery = Recovery(store)

    def set_manifest(self, raw: bytes) -> dict[str, bytes]:
        """Set the manifest; gives the recovery secrets, encrypted, by the names of the recovery keys.

        Raises:
            IllegalTransitionError: there is one already.
            ManifestError: it was refused; says where and why.
            StateError: it could not be stored.
        """
        world = self._world
        with self._ledger.lock:
            before = self._ledger.holdings
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
            advance(self._ledger.holdings.state, Event.FETCH_RECOVERY_KEY)
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
                advance(self._ledger.holdings.state, Event.RECOVER)
            except IllegalTransitionError as exc:
                raise exc if is_in_clear(secret) else undecryptable(BAD_STATE) from exc
            found = self._recovery.offer(secret, signature)
            if found.holdings is not None:
                mode = manifest_of(found.holdings).config.seal_mode
                self._store.adopt(found.key, bound_to=SEALED_TO[mode])
                self._ledger.open(found.holdings, found.journal, version=found.version)
                # It is open from here on, whatever becomes of the entry.
                entry = state_recovered(given=found.given, refused=found.refused, holders=found.holders)
                self._ledger.note_or_owe(entry)
                self._recovery.forget()
        self._world.log.info("recovery secret taken", remaining=found.remaining)
        return found.remaining

    # ---- inside

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
        issuer = self._ledger.holdings.identity.marble_root
        secrets = generate_shared(manifest, issuer=issuer, now=now, random=self._world.random)
        check_own_rules(manifest, issuer=issuer, now=now)
        return secrets


def new_identity(settings: Settings, world: World) -> Identity:
    """Keys and certificates of a coordinator that has none."""
    root = issue_root(settings.names, now=world.clock(), mark=settings.mark)
    return renew_identity(root, settings, world)


def renew_identity(root: KeyPair, settings: Settings, world: World) -> Identity:
    """The same root with a new intermediate, and its key as the root of marbles."""
    now = world.clock()
    intermediate = issue_intermediate(root, settings.names, now=now, mark=settings.mark)
    return Identity(root, intermediate, issue_marble_root(intermediate, now=now))
