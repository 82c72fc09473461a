"""The webhook's own certificate: made once, shared by all, renewed in time, and trusted before it serves."""

import asyncio
import base64
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from fakes.cluster import FakeCluster
from tacit.errors import ClusterAccessError, ClusterConflictError, ClusterError, InstallError
from tacit.kube.injector.certificate import LIFETIME, read_secret, renew_secret, service_names
from tacit.kube.injector.upkeep import Place, Upkeep
from tacit.kube.objects import SECRET, WEBHOOK

NOW = datetime(2026, 11, 1, tzinfo=UTC)
PLACE = Place("marblerun", "certificate", "marble-injector-marblerun")
NAMES = service_names("marble-injector", "marblerun")


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def cluster() -> FakeCluster:
    made = FakeCluster()
    made.put(SECRET, {"metadata": {"name": "certificate"}, "type": "Opaque"}, "marblerun")
    service = {"name": "marble-injector", "namespace": "marblerun"}
    other = {"clientConfig": {"service": {"name": "other", "namespace": "marblerun"}}}
    webhooks = [other, {"clientConfig": {"service": service}}]
    made.put(WEBHOOK, {"metadata": {"name": PLACE.configuration}, "webhooks": webhooks})
    return made


def bundle(cluster: FakeCluster) -> list[x509.Certificate]:
    """What the webhook's configuration trusts."""
    held = cluster.objects[WEBHOOK.name, "", PLACE.configuration]["webhooks"]
    assert "caBundle" not in held[0]["clientConfig"]
    return x509.load_pem_x509_certificates(base64.b64decode(held[1]["clientConfig"]["caBundle"]))


def leaf(upkeep: Upkeep) -> x509.Certificate:
    return x509.load_pem_x509_certificate(upkeep.credentials()[0])


async def test_the_first_certificate_is_made_shared_and_trusted(cluster: FakeCluster) -> None:
    one, two = (Upkeep(cluster, PLACE, clock=Clock()) for _ in range(2))
    await one.look()
    await two.look()
    assert one.credentials() == two.credentials()
    assert bundle(cluster) == [leaf(one)]
    names = leaf(one).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert set(NAMES) <= set(names.get_values_for_type(x509.DNSName))
    assert leaf(one).not_valid_after_utc == NOW + LIFETIME


async def test_of_two_that_make_one_at_once_one_succeeds(cluster: FakeCluster) -> None:
    one, two = (Upkeep(cluster, PLACE, clock=Clock()) for _ in range(2))
    await asyncio.gather(one.look(), two.look())
    assert one.credentials() == two.credentials()
    assert bundle(cluster) == [leaf(one)]


async def test_somebody_elses_change_in_between_is_not_overwritten(cluster: FakeCluster) -> None:
    winner = renew_secret(cluster.objects[SECRET.name, "marblerun", "certificate"], names=NAMES, now=NOW)
    turns = iter([True])

    def interfere(verb: str, name: str) -> None:
        if verb == "update" and next(turns, False):
            cluster.put(SECRET, winner, "marblerun")

    cluster.interfere = interfere
    upkeep = Upkeep(cluster, PLACE, clock=Clock())
    await upkeep.look()
    assert upkeep.credentials()[0] == base64.b64decode(winner["data"]["tls.crt"])


async def test_it_is_renewed_after_two_thirds_and_the_old_one_stays_trusted(cluster: FakeCluster) -> None:
    clock = Clock()
    upkeep, other = Upkeep(cluster, PLACE, clock=clock), Upkeep(cluster, PLACE, clock=clock)
    await upkeep.look()
    await other.look()
    first = leaf(upkeep)
    clock.now = NOW + LIFETIME / 2
    await upkeep.look()
    assert leaf(upkeep) == first
    clock.now = NOW + LIFETIME * 0.7
    await upkeep.look()
    assert leaf(upkeep) != first
    assert bundle(cluster) == [leaf(upkeep), first]
    assert leaf(other) == first  # and may go on until it looks
    await other.look()
    assert leaf(other) == leaf(upkeep)
    clock.now = NOW + LIFETIME * 1.4
    await upkeep.look()
    assert first not in bundle(cluster)


def a_certificate_with_names_that_nobody_can_read() -> dict[str, Any]:
    key = ec.generate_private_key(ec.SECP256R1())
    made = x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 1, NOW, NOW + LIFETIME)
    names = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x82\x7f")
    certificate = made.add_extension(names, critical=False).sign(key, hashes.SHA256())
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    held = {"tls.crt": certificate.public_bytes(Encoding.PEM), "tls.key": key_pem}
    return {name: base64.b64encode(pem).decode() for name, pem in held.items()}


async def test_a_certificate_with_names_that_nobody_can_read_is_made_anew(cluster: FakeCluster) -> None:
    data = a_certificate_with_names_that_nobody_can_read()
    cluster.put(SECRET, {"metadata": {"name": "certificate"}, "data": data}, "marblerun")
    upkeep = Upkeep(cluster, PLACE, clock=Clock())
    await upkeep.look()
    assert bundle(cluster)[0] == leaf(upkeep)


@pytest.mark.parametrize(
    "data", [{"tls.crt": "!", "tls.key": ""}, {"tls.crt": "QQ==", "tls.key": "QQ=="}, {"tls.crt": 3}]
)
async def test_a_damaged_secret_is_made_anew(cluster: FakeCluster, data: dict[str, Any]) -> None:
    cluster.put(SECRET, {"metadata": {"name": "certificate"}, "data": data}, "marblerun")
    upkeep = Upkeep(cluster, PLACE, clock=Clock())
    await upkeep.look()
    assert bundle(cluster) == [leaf(upkeep)]


def test_a_certificate_for_another_namespace_is_not_taken() -> None:
    secret = renew_secret({"metadata": {"name": "s"}}, names=service_names("marble-injector", "other"), now=NOW)
    assert read_secret(secret, names=NAMES, now=NOW) is None
    assert read_secret(secret, names=service_names("marble-injector", "other"), now=NOW) is not None


def test_the_key_is_in_no_text_about_it() -> None:
    secret = renew_secret({"metadata": {"name": "s"}}, names=NAMES, now=NOW)
    held = read_secret(secret, names=NAMES, now=NOW)
    assert held is not None
    assert "PRIVATE KEY" not in repr(held)


async def test_without_the_charts_objects_it_says_what_is_missing(cluster: FakeCluster) -> None:
    del cluster.objects[WEBHOOK.name, "", PLACE.configuration]
    upkeep = Upkeep(cluster, PLACE, clock=Clock())
    with pytest.raises(ClusterError, match="MutatingWebhookConfiguration marble-injector-marblerun"):
        await upkeep.look()
    with pytest.raises(InstallError, match="no certificate yet"):
        upkeep.credentials()
    del cluster.objects[SECRET.name, "marblerun", "certificate"]
    with pytest.raises(InstallError, match="no Secret certificate"):
        await upkeep.look()


async def test_a_failure_is_logged_and_what_is_held_serves_on(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    upkeep = Upkeep(cluster, PLACE, clock=clock)
    await upkeep.look()
    held = upkeep.credentials()
    clock.now = NOW + LIFETIME * 0.9
    failures = iter(
        [ClusterAccessError("nobody answers"), ClusterConflictError("changed"), ValueError("a fault of ours")]
    )

    def interfere(verb: str, name: str) -> None:
        error = next(failures, None)
        if error is not None:
            assert upkeep.credentials() == held
            raise error

    cluster.interfere = interfere
    task = asyncio.create_task(upkeep.run(every=0.001))
    async with asyncio.timeout(60):
        while upkeep.credentials() == held:
            await asyncio.sleep(0.001)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert "could not be looked after: nobody answers" in caplog.text
    assert leaf(upkeep).not_valid_after_utc > NOW + LIFETIME


def test_a_lifetime_may_be_short() -> None:
    secret = renew_secret({"metadata": {"name": "s"}}, names=NAMES, now=NOW, lifetime=timedelta(hours=1))
    assert read_secret(secret, names=NAMES, now=NOW + timedelta(minutes=30)) is not None
    assert read_secret(secret, names=NAMES, now=NOW + timedelta(minutes=55)) is None
