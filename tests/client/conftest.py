from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.coordinator import FakeCoordinator
from fakes.tee import FakeTee
from tacit.client.coordinator import fingerprint
from tacit.client.trust import Expectation, TrustStore
from tacit.evidence.simulated.platform import render_platform
from tacit.manifest import Package


@pytest.fixture(scope="session")
def tee() -> FakeTee:
    return FakeTee()


@pytest.fixture(scope="session")
def platform(tee: FakeTee, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the fake's platform, its public part."""
    folder = tmp_path_factory.mktemp("platform")
    (folder / "platform.json").write_bytes(render_platform(tee.platform.public()))
    return folder


@pytest.fixture
def coordinator(tee: FakeTee) -> Iterator[FakeCoordinator]:
    with FakeCoordinator(tee=tee) as running:
        yield running


@pytest.fixture
def expectation(tee: FakeTee) -> Expectation:
    info = tee.package_info
    return Expectation("simulated", Package(unique_id=info.unique_id, tee="simulated"), tee.anchor)


@pytest.fixture
def trust(coordinator: FakeCoordinator, expectation: Expectation, tmp_path: Path) -> TrustStore:
    """A store that expects the fake coordinator, and has never seen it."""
    store = TrustStore(tmp_path / "config" / "tacit")
    store.store_expectation(coordinator.host, expectation)
    return store


@pytest.fixture
def pinned(trust: TrustStore, coordinator: FakeCoordinator) -> TrustStore:
    """The same, with the manifest of the fake coordinator pinned."""
    trust.pin_manifest(coordinator.host, fingerprint(coordinator.manifest))
    return trust
