"""A session for a program here: `Session.opened(FILE)`, of the coordinator that FILE names, as of the time that it names."""

import json
from datetime import datetime, timedelta
from pathlib import Path

import tacit
from tacit.client.connect import attest_coordinator
from tacit.client.session.renewal import Renewal
from tacit.client.trust import TrustStore


def opened(file):
    told = json.loads(Path(file).read_text())
    now, trust = datetime.fromisoformat(told["now"]), TrustStore(Path(told["trust"]))

    def attest():
        return attest_coordinator(
            told["host"], trust, now=now, nonce=bytes(32), platform=Path(told["platform"]), timeout=60
        )

    first = attest()
    return tacit.Session(first, Renewal(first, attest, max_age=timedelta(hours=1), clock=lambda: now))
