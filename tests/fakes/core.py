"""Coordinators in memory: the real ones, with a store that ends with the test, a clock that stands still, and their log.

made = make_coordinator()                        # unattested
made = make_coordinator(tee=FakeTee())           # attested, on that fake's platform
made.core.set_manifest(manifest_bytes)
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import Any

from fakes.tee import NOW, FakeTee
from tacit.coordinator.activate import Order, Verifier
from tacit.coordinator.core import Coordinator, Settings, World
from tacit.coordinator.log import open_log
from tacit.coordinator.sealed.records import Contents
from tacit.coordinator.store import MemoryStore, Store
from tacit.evidence import Claims, Role, Tee, report_data, verify_binding, verify_evidence
from tacit.pki import issue_self_signed
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key

UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
PLAIN_MANIFEST: dict[str, Any] = {"Packages": {"p": {"Debug": True}}, "Marbles": {"m": {"Package": "p"}}}


@dataclass
class Made:
    """A coordinator and what stands around it."""

    core: Coordinator
    log: StringIO
    store: Store
    world: World

    def lines(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def make_world(*, tee: FakeTee | None = None, clock: Callable[[], datetime] = lambda: NOW) -> tuple[World, StringIO]:
    """A world and the text of its log."""
    text = StringIO()
    log = open_log(text, clock=clock, debug=True, development=False)
    return World(
        tee, make_verifier(tee) if tee else None, clock, os.urandom, log, make_judge(tee) if tee else None
    ), text


def make_coordinator(
    *,
    tee: FakeTee | None = None,
    store: Store | None = None,
    contents: Contents | None = None,
    recovery: bool = False,
    names: tuple[str, ...] = ("localhost",),
    clock: Callable[[], datetime] = lambda: NOW,
) -> Made:
    """A coordinator in memory, or over the store that is given."""
    world, text = make_world(tee=tee, clock=clock)
    held = store or MemoryStore()
    settings = Settings(names, "simulated", "SIMULATED") if tee else Settings(names)
    return Made(Coordinator(held, settings, world, contents=contents, recovery=recovery), text, held, world)


def make_verifier(tee: FakeTee) -> Verifier:
    """What the program builds from a platform's folder, from a fake's platform in memory."""

    def verify(evidence: bytes, certificate: bytes, _: Tee) -> Claims:
        claims = verify_evidence(evidence, tee.collateral, tee.anchor, now=NOW)
        return verify_binding(claims, role=Role.MARBLE, key=certificate)

    return verify


def make_judge(tee: FakeTee) -> Callable[[bytes], Claims]:
    """What the program builds for quotes that callers want signed."""
    return lambda quote: verify_evidence(quote, tee.collateral, tee.anchor, now=NOW)


def make_order(
    marble_type: str = "m",
    *,
    tee: FakeTee | None = None,
    uuid: str = UUID,
    names: tuple[str, ...] = ("localhost",),
    certificate: bytes | None = None,
) -> Order:
    """What a marble sends, with evidence where it has a TEE."""
    own = issue_self_signed(list(names), common_name="MarbleRun Marble", now=NOW).certificate_der
    evidence = tee.issue_evidence(report_data(role=Role.MARBLE, key=own)) if tee else b""
    return Order(marble_type, uuid, create_csr(generate_key(), list(names)), evidence, certificate or own)


def encode(manifest: dict[str, Any]) -> bytes:
    """A manifest as it is uploaded."""
    return json.dumps(manifest).encode()
