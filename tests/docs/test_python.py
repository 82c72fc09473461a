"""The Python in the README and in the package's own docstring runs as it stands, but for the ports."""

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

import tacit
from fakes.coordinator import FakeCoordinator
from fakes.served import FakeModels, FakeServed, half_plus_two
from fakes.tee import FakeTee, make_platform
from tacit.client.coordinator import fingerprint
from tacit.client.trust import Expectation, TrustStore
from tacit.edge.data import serve_grpc_data
from tacit.evidence.simulated.platform import render_platform
from tacit.graph.signature import Signature, TensorSpec
from tacit.manifest import Package
from tacit.pki import issue_leaf, parse_csr
from tacit.pki.csr import create_csr
from tacit.pki.keys import generate_key
from tacit.serving.plane import Plane
from tacit.serving.tfs.service import TfsService

README = (Path(__file__).parents[2] / "README.md").read_text()
EXAMPLES = {
    "README.md": "\n".join(re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)),
    "tacit": re.sub(
        r"^    ", "", re.search(r"(    import tacit\n.*?)\n\n\S", tacit.__doc__ or "", re.DOTALL)[1], flags=re.M
    ),
}


@pytest.fixture
def coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCoordinator]:
    """A coordinator that this user trusts, on a platform that is in force today."""
    tee = FakeTee(platform=make_platform(now=datetime.now(UTC)))
    (tmp_path / "platform.json").write_bytes(render_platform(tee.platform.public()))
    monkeypatch.setenv("TACIT_PLATFORM", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    package = Package(unique_id=tee.package_info.unique_id, tee="simulated")
    with FakeCoordinator(tee=tee) as running:
        store = TrustStore(tmp_path / "config" / "tacit")
        pinned = fingerprint(running.manifest)
        store.store_expectation(running.host, Expectation("simulated", package, tee.anchor, pinned))
        yield running


@pytest.fixture
def server(coordinator: FakeCoordinator) -> Iterator[str]:
    """The address of a server that the coordinator vouches for; its model `digits` gives half plus two."""
    issuer = coordinator.intermediate
    assert issuer is not None
    csr = parse_csr(create_csr(generate_key(), ["localhost"]))
    leaf = issue_leaf(csr, issuer=issuer, uuid="u", marble_type="t", allowed_names=None, now=datetime.now(UTC))
    spec = {name: TensorSpec(f"{name}:0", 1, None) for name in "xy"}
    signatures = {"serving_default": Signature({"x": spec["x"]}, {"y": spec["y"]})}
    service = TfsService(Plane(FakeModels(FakeServed("digits", 1, signatures, half_plus_two))))
    loop, found, stop = asyncio.new_event_loop(), [], threading.Event()

    async def serve() -> None:
        listener = await serve_grpc_data(
            service.handlers(),
            host="127.0.0.1",
            port=0,
            credentials=lambda: (leaf.certificate_pem + issuer.certificate_pem, leaf.key_pem),
            client_roots=None,
            max_message=-1,
        )
        found.append(listener.port)
        stop.set()
        with suppress(asyncio.CancelledError):
            await asyncio.get_running_loop().create_future()
        await listener.close(0)

    task = loop.create_task(serve())
    thread = threading.Thread(target=loop.run_until_complete, args=(task,))
    thread.start()
    assert stop.wait(60)
    yield f"localhost:{found[0]}"
    loop.call_soon_threadsafe(task.cancel)
    thread.join()
    loop.close()


@pytest.mark.parametrize("where", EXAMPLES)
def test_the_example_runs_and_gives_a_prediction(where: str, coordinator: FakeCoordinator, server: str) -> None:
    code = re.sub(r'"[\w.]+:4433"', repr(coordinator.host), EXAMPLES[where])
    code = re.sub(r'"[\w.]+:8500"', repr(server), code).replace('"my_model"', '"digits"')
    names = {"images": np.array([2.0, 4.0], np.float32)}
    exec(compile(code, where, "exec"), names)
    result = names.get("prediction", names.get("labels"))
    np.testing.assert_array_equal(result, names.get("image", names["images"]) / 2 + 2)
    names["session"].close()
