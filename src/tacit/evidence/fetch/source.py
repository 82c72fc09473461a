"""Evidence in, claims out, with collateral found wherever the configuration says.

1.  Which platform the evidence is of. Nobody is asked about a quote whose chain does not lead to the anchor's root.
2.  Collateral at hand: what was used last, what the cache has, what the bundle has; of those in force the one that was
    fetched last. Otherwise it is fetched, each platform by one caller at a time, and not again at once if that failed.
    An SNP report may bring its chip's certificates along: those that lead to the anchor's root and are for this very
    platform need not be fetched. AMD's list is, where a service is named; without one nobody can say whether the chip's
    key was revoked, and the claims say that.
3.  The evidence is verified with it.
4.  It judges by no older knowledge than was ever seen: TCB info and QE identity by their TCB evaluation number,
    revocation lists by their own. Collateral from the disk with which that fails, any that has ended, and any by which
    a platform fails that newer might know, is fetched anew, once.
5.  Only collateral that passed is kept on the disk, and only its numbers are remembered: a service that lies can
    neither fill the cache nor lock it.
6.  What is a day old, or ends within three, is fetched anew while the old is still good. Where the newer says that a
    platform was revoked, all that was fetched before is overruled, on the disk and in a bundle too.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from threading import Lock

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from tacit.errors import (
    BindingError,
    CollateralAbsentError,
    CollateralRollbackError,
    CollateralTimeError,
    EvidenceError,
    EvidenceSignatureError,
    RevokedError,
    TacitError,
    TcbError,
    UntrustedRootError,
)
from tacit.evidence.anchor.certificates import FOREIGN_ERRORS, KEPT, parse_chain, parse_crl
from tacit.evidence.anchor.roots import check_chain_kind, parse_anchor
from tacit.evidence.claims import Claims, TrustAnchor
from tacit.evidence.fetch.amd import (
    AMD_SERVICE,
    AmdPlatform,
    brought_along,
    fetch_amd_collateral,
    of_cloud,
    platform_of_report,
)
from tacit.evidence.fetch.http import Get, check_address, get
from tacit.evidence.fetch.intel import INTEL_SERVICE, IntelPlatform, fetch_intel_collateral, platform_of_quote
from tacit.evidence.fetch.keep import Bundle, Cache, Kept, Platform, keep
from tacit.evidence.intel.collateral import IntelCollateral, read_collateral
from tacit.evidence.intel.quote import Quote, parse_quote
from tacit.evidence.snp.carried import split_report
from tacit.evidence.snp.collateral import AmdCollateral
from tacit.evidence.snp.report import SnpReport, is_report, parse_snp_report
from tacit.evidence.verify import Binding, Collateral, verify_evidence
from tacit.evidence.verify.envelope import unwrap
from tacit.evidence.verify.ratls import is_certificate, parse_ratls

REFRESH_AGE = timedelta(days=1)
REFRESH_BEFORE = timedelta(days=3)  # of the end; Intel's collateral is good for 30 days
RETRY = timedelta(seconds=30)  # after a service failed for a platform
# In memory, of those that passed and of others each: whoever sends evidence of ever new ones pushes out his own alone.
_MAX_PLATFORMS = 1024
# Strangers' evidence must not make us flood a service. What passed before has as many of its own, whatever they send.
_MAX_FETCHES, _WINDOW = 60, timedelta(minutes=1)

Start = Callable[[Callable[[], None]], None]
"""Does some work, now or soon, in this thread or another."""
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where collateral may come from.

    The addresses of the two makers' services (None: that one is never asked), a bundle's file, the cache's folder.
    """

    intel: str | None = INTEL_SERVICE
    amd: str | None = AMD_SERVICE
    bundle: Path | None = None
    cache: Path | None = None

    @classmethod
    def named(cls, where: str | None, *, cache: Path | None) -> "Places":
        """The places that one word names: an address, or a bundle's file; without it the makers' own services."""
        if where is None:
            return cls(cache=cache)
        if where.startswith(("http://", "https://")):
            return cls(where, where, None, cache)
        return cls(None, None, Path(where), cache)

    def check(self) -> "Places":
        """These, if the addresses are some. Raises: CollateralAbsentError."""
        intel, amd = (None if one is None else check_address(one) for one in (self.intel, self.amd))
        return Places(intel, amd, self.bundle, self.cache)


@dataclass(slots=True)
class _Slot:
    """What is known of one platform."""

    lock: Lock = field(default_factory=Lock)
    kept: Kept | None = None
    tried: datetime | None = None
    fetched: Kept | None = None
    """What came then; it has not passed yet."""
    unfit: Kept | None = None
    """What came, and did not pass with evidence that passed before."""
    failed: TacitError | None = None
    """Never raised itself: it would keep what its callers hold."""
    refreshing: bool = False


def run_now(work: Callable[[], None]) -> None:
    """The work, in this thread: for programs that end after one question."""
    work()


class CollateralSource:
    """Verifies evidence of real TEEs with collateral from these places. Several threads may use it."""

    def __init__(self, places: Places, *, get: Get = get, start: Start = run_now, note: Note = lambda _: None) -> None:
        """`start` takes the work of refreshing, and `note` what went wrong without harm yet, as one line.

        Raises:
            CollateralAbsentError: an address that is none, or no bundle where one was named.
            CollateralError: a bundle that cannot be read.
        """
        self._places = places.check()
        self._get, self._start, self._note = get, start, note
        self._cache = Cache(places.cache) if places.cache is not None else None
        self._newest = self._cache.load_newest() if self._cache is not None else {}
        self._bundle = None if places.bundle is None else Bundle(places.bundle)
        self._known: OrderedDict[str, _Slot] = OrderedDict()  # platforms that passed
        self._strange: OrderedDict[str, _Slot] = OrderedDict()
        self._fetches: dict[bool, deque[datetime]] = {known: deque(maxlen=_MAX_FETCHES) for known in (True, False)}
        self._lock = Lock()

    def verify(self, evidence: bytes, anchor: TrustAnchor, *, now: datetime, binding: Binding | None = None) -> Claims:
        """What authentic evidence says, as `verify_evidence` has it.

        Raises:
            CollateralAbsentError: no collateral is at hand, and none could be fetched.
            CollateralRollbackError: what there is judges by older knowledge than was already seen.
            EvidenceError: as `verify_evidence`.
        """
        return self.verify_keeping(evidence, anchor, now=now, binding=binding)[0]

    def verify_keeping(
        self, evidence: bytes, anchor: TrustAnchor, *, now: datetime, binding: Binding | None = None
    ) -> tuple[Claims, Kept]:
        """As `verify`, with the collateral that was used. Raises: as `verify`."""
        platform = find_platform(evidence, anchor, now)  # (1)
        brought = brought_along(evidence, platform, anchor) if isinstance(platform, AmdPlatform) else None
        if isinstance(platform, AmdPlatform) and brought is not None:
            platform = of_cloud(platform, brought)
        slot = self._slot(str(platform))
        kept = self._at_hand(platform, slot, now)
        if kept is None and brought is not None and self._address(platform) is None and not self._since(platform):
            kept = keep(brought, fetched=now)
        fetched = kept is None
        if kept is None:
            kept = self._fetch(platform, slot, now, brought=brought)
        try:
            claims = self._judge(evidence, kept, anchor, platform, now=now, binding=binding)
        except EvidenceError as exc:
            # What passed in this process before can only have grown old. What lay on the disk may be anything.
            worn = slot.kept is not kept or isinstance(exc, CollateralTimeError | CollateralRollbackError)
            unknown = not worn and isinstance(exc, TcbError | EvidenceSignatureError) and _is_due(kept, now)
            if fetched or not (worn or unknown) or isinstance(exc, BindingError) or self._address(platform) is None:
                raise
            # A part or a TDX module may be newer than what is kept. Or somebody lies: that is charged to strangers.
            try:
                fetched, kept = (
                    True,
                    self._fetch(platform, slot, now, instead_of=kept, brought=brought, strange=unknown),
                )
            except CollateralAbsentError as absent:
                raise exc if unknown else absent from None
            claims = self._judge(evidence, kept, anchor, platform, now=now, binding=binding)
        self._remember(platform, slot, kept, store=fetched)  # (5)
        if not fetched:
            self._refresh_if_due(evidence, anchor, platform, slot, now)  # (6)
        return claims, kept

    def _judge(
        self,
        evidence: bytes,
        kept: Kept,
        anchor: TrustAnchor,
        platform: Platform,
        *,
        now: datetime,
        binding: Binding | None,
    ) -> Claims:
        """(3) and (4)."""
        claims = verify_evidence(evidence, kept.collateral, anchor, now=now, binding=binding)
        with self._lock:
            newest = dict(self._newest)
        for name, number in _numbers(kept.collateral, platform).items():
            if number < newest.get(name, 0):
                raise CollateralRollbackError(
                    f"the collateral judges by the number {number} of {name}, and {newest[name]} was already seen: an "
                    "older judgement of the same platform; ask another service, or bring a newer bundle"
                )
        return claims

    def _slot(self, name: str) -> _Slot:
        with self._lock:
            slots = self._known if name in self._known else self._strange
            return _put(slots, name, slots.get(name) or _Slot())

    def _address(self, platform: Platform) -> str | None:
        return self._places.intel if isinstance(platform, IntelPlatform) else self._places.amd

    def _at_hand(self, platform: Platform, slot: _Slot, now: datetime) -> Kept | None:
        """(2) What need not be fetched."""
        found = [slot.kept, None if self._bundle is None else self._bundle.load(platform)]
        if self._cache is not None and (slot.kept is None or not slot.kept.in_force(now)):
            found.append(self._cache.load(platform))
        since = self._since(platform)
        there = [one for one in found if one is not None and one.fetched_by(now).timestamp() >= since]
        in_force = [one for one in there if one.in_force(now)]
        # Offline, what has ended says more by its own refusal than "there is none".
        ended = there if self._address(platform) is None else []
        return max(in_force or ended, key=lambda one: one.fetched_by(now), default=None)

    def _fetch(
        self,
        platform: Platform,
        slot: _Slot,
        now: datetime,
        *,
        instead_of: Kept | None = None,
        brought: AmdCollateral | None = None,
        strange: bool = False,
    ) -> Kept:
        """Collateral from its maker's service, or what another thread just got there. Raises: EvidenceError."""
        address = self._address(platform)
        if address is None:
            none = "all collateral at hand was overruled" if self._since(platform) else "there is no collateral"
            raise CollateralAbsentError(
                f"{none} for {platform}, and no service to ask: name one, or bring a new bundle "
                "(`tacit evidence bundle` makes one where there is a network)"
            )
        with slot.lock:
            if slot.tried is not None and abs(now - slot.tried) < RETRY:
                if slot.fetched is not None and slot.fetched is not instead_of:
                    return slot.fetched
                if slot.failed is not None:
                    raise slot.failed.anew()
                raise CollateralAbsentError(f"collateral for {platform} was fetched just now")
            known = slot.kept is not None or instead_of is not None or self._in_cache(platform)
            self._count(now, known=known and not strange)
            slot.tried, slot.failed, slot.fetched = now, None, None
            try:
                collateral: Collateral = (
                    fetch_intel_collateral(platform, address, self._get)
                    if isinstance(platform, IntelPlatform)
                    else fetch_amd_collateral(platform, address, self._get, brought=brought)
                )
                slot.fetched = keep(collateral, fetched=now)
            except TacitError as exc:
                slot.failed = exc.anew()
                raise
            return slot.fetched

    def _in_cache(self, platform: Platform) -> bool:
        """Whether it passed in an earlier process: only what did is there."""
        return self._cache is not None and self._cache.load(platform) is not None

    def _count(self, now: datetime, *, known: bool) -> None:
        with self._lock:
            fetches = self._fetches[known]
            if len(fetches) == _MAX_FETCHES and abs(now - fetches[0]) < _WINDOW:
                raise CollateralAbsentError(
                    f"collateral was fetched {_MAX_FETCHES} times within a minute; no service is asked more often"
                )
            fetches.append(now)

    def _remember(self, platform: Platform, slot: _Slot, kept: Kept, *, store: bool) -> None:
        numbers = _numbers(kept.collateral, platform)
        with self._lock:
            higher = {name: number for name, number in numbers.items() if number > self._newest.get(name, 0)}
            self._newest.update(higher)
            slot.kept = kept
            self._strange.pop(str(platform), None)
            _put(self._known, str(platform), slot)
        if self._cache is None:
            return
        try:
            if higher:
                self._cache.raise_newest(higher)
            if store:
                self._cache.store(platform, kept)
        except OSError as exc:
            self._note(f"collateral cannot be kept on the disk: {exc.strerror}")

    def _since(self, platform: Platform) -> int:
        """Since when older collateral of a platform is overruled, in seconds of Unix time; 0 where none is."""
        with self._lock:
            return self._newest.get(_overruled(platform), 0)

    def _overrule(self, platform: Platform, slot: _Slot, now: datetime) -> None:
        """Nothing that was fetched before now judges this platform again, in this process or the next.

        What said so is not kept either: only what it was refused for is known to be its maker's.
        """
        since = {_overruled(platform): int(now.timestamp())}
        with self._lock:
            self._newest |= {name: max(second, self._newest.get(name, 0)) for name, second in since.items()}
            slot.kept = None
        try:
            if self._cache is not None:
                self._cache.raise_newest(since)
        except OSError as exc:
            self._note(f"that collateral is overruled cannot be kept on the disk: {exc.strerror}")

    def _refresh_if_due(
        self, evidence: bytes, anchor: TrustAnchor, platform: Platform, slot: _Slot, now: datetime
    ) -> None:
        kept = slot.kept
        if kept is None or self._address(platform) is None:
            return
        with self._lock:
            # What just came for others, who did not pass with it, may still be good.
            waiting = slot.fetched is not None and slot.fetched is not kept and slot.fetched is not slot.unfit
            early = slot.tried is not None and abs(now - slot.tried) < RETRY and not waiting
            if not _is_due(kept, now) or slot.refreshing or early:
                return
            slot.refreshing = True

        def refresh() -> None:
            try:
                brought = brought_along(evidence, platform, anchor) if isinstance(platform, AmdPlatform) else None
                newer = self._fetch(platform, slot, now, instead_of=kept, brought=brought)
                slot.unfit = newer
                self._judge(evidence, newer, anchor, platform, now=now, binding=None)
                slot.unfit = None
                self._remember(platform, slot, newer, store=True)
            except RevokedError as exc:
                self._overrule(platform, slot, now)
                self._note(f"collateral for {platform} that was fetched before is overruled: {exc}")
            except TacitError as exc:
                self._note(f"collateral for {platform} could not be refreshed, and is good until {kept.end}: {exc}")
            finally:
                slot.refreshing = False

        self._start(refresh)


def _put(slots: OrderedDict[str, _Slot], name: str, slot: _Slot) -> _Slot:
    """The slot, as the youngest of not too many."""
    slots[name] = slot
    slots.move_to_end(name)
    if len(slots) > _MAX_PLATFORMS:
        slots.popitem(last=False)
    return slot


def find_platform(evidence: bytes, anchor: TrustAnchor, now: datetime) -> Platform:
    """(1) Nobody is asked for it. Raises: EvidenceFormatError, UntrustedRootError."""
    found = parse_any(evidence, now=now)
    if isinstance(found, SnpReport):
        return platform_of_report(found)
    check_rooted(found, anchor)
    return platform_of_quote(found)


def parse_any(evidence: bytes, *, now: datetime) -> Quote | SnpReport:
    """The quote or report in evidence of any form. Raises: EvidenceFormatError."""
    if is_certificate(evidence):
        evidence = parse_ratls(evidence, now=now).quote
    return parse_snp_report(split_report(evidence)[0]) if is_report(evidence) else parse_quote(unwrap(evidence))


def check_rooted(quote: Quote, anchor: TrustAnchor) -> None:
    """Refuse a quote whose chain does not lead to the anchor's root, before anybody is asked about it.

    Raises:
        UntrustedRootError: another root, or a signature that does not hold.
    """
    chain = parse_chain(quote.pck_chain_pem)
    root = parse_anchor(anchor)
    check_chain_kind(chain, anchor, root)
    _verify_rooted(chain, root)


@lru_cache(maxsize=KEPT)
def _verify_rooted(chain: tuple[x509.Certificate, ...], root: x509.Certificate) -> None:
    try:
        for certificate, issuer in zip(chain, (*chain[1:-1], root), strict=False):
            certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *FOREIGN_ERRORS) as exc:
        raise UntrustedRootError("the evidence's chain does not lead to its root: a signature does not hold") from exc


def _is_due(kept: Kept, now: datetime) -> bool:
    """Whether it is time to ask for newer."""
    return now - kept.fetched_by(now) >= REFRESH_AGE or kept.end - now <= REFRESH_BEFORE


def _overruled(platform: Platform) -> str:
    """Under which name it is remembered since when (seconds of Unix time) older collateral is overruled."""
    return f"overruled-{platform}"


def _numbers(collateral: Collateral, platform: Platform) -> dict[str, int]:
    """What only ever grows: the TCB evaluation numbers of Intel's two texts, and the numbers of revocation lists."""
    if isinstance(collateral, IntelCollateral):
        read, tee = read_collateral(collateral), str(platform).partition("-")[0]
        found = {f"{platform}": read.tcb_info, f"{tee}-qe-identity": read.qe_identity}
        numbers = {name: value.get("tcbEvaluationDataNumber") for name, value in found.items()}
        said = {name: number for name, number in numbers.items() if isinstance(number, int)}
        return said | _list_number(read.root_crl) | _list_number(read.pck_crl)
    return _list_number(parse_crl(collateral.crl, "AMD")) if collateral.crl else {}


def _list_number(crl: x509.CertificateRevocationList) -> dict[str, int]:
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return {}
    return {f"list-{crl.issuer.rfc4514_string()[:100]}": number}
