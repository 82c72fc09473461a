"""A debug enclave, whose memory its host reads, at a coordinator that runs: refused, unless the package says Debug."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import grpclib
import pytest

from fakes.programs import CoordinatorProcess, activate, make_platform_folder
from tacit.evidence.issue import SimulatedTee, load_simulated_tee
from tacit.evidence.sgx.report import ATTRIBUTE_DEBUG

pytestmark = [pytest.mark.slow, pytest.mark.journey]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_platform_folder(tmp_path_factory.mktemp("platform") / "platform")


@pytest.fixture(scope="module")
def mesh(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A coordinator whose manifest has the same program in a package and in a Debug package."""
    package = {"TEE": "simulated", "UniqueID": load_tee(platform).package_info.unique_id.hex()}
    manifest = {
        "Packages": {"usual": package, "debug": {**package, "Debug": True}},
        "Marbles": {name: {"Package": name, "Parameters": {}} for name in ("usual", "debug")},
    }
    with CoordinatorProcess(tmp_path_factory.mktemp("coordinator"), platform=platform) as coordinator:
        with coordinator.http() as http:
            assert http.post("/manifest", content=json.dumps(manifest)).status_code == 200
        yield coordinator.mesh


def load_tee(platform: Path, *, debug: bool = False) -> SimulatedTee:
    tee = load_simulated_tee(platform, program="marble", now=datetime.now(UTC))
    if debug:
        tee._enclave = replace(tee._enclave, attributes=tee._enclave.attributes | ATTRIBUTE_DEBUG)
    return tee


async def test_t08_a_debug_enclave_is_refused_with_the_reason(mesh: str, platform: Path) -> None:
    with pytest.raises(grpclib.GRPCError, match=r"invalid quote: .*[Dd]ebug"):
        await activate(mesh, "usual", uuid=str(uuid4()), issuer=load_tee(platform, debug=True))


async def test_t08_a_debug_enclave_is_activated_where_the_package_says_debug(mesh: str, platform: Path) -> None:
    answer = await activate(mesh, "debug", uuid=str(uuid4()), issuer=load_tee(platform, debug=True))
    assert answer.parameters.env


async def test_t08_a_debug_package_takes_no_other_enclave(mesh: str, platform: Path) -> None:
    with pytest.raises(grpclib.GRPCError, match="take Debug out"):
        await activate(mesh, "debug", uuid=str(uuid4()), issuer=load_tee(platform))


async def test_an_enclave_that_is_no_debug_enclave_is_activated(mesh: str, platform: Path) -> None:
    assert (await activate(mesh, "usual", uuid=str(uuid4()), issuer=load_tee(platform))).parameters.env
