"""A policy for TDX or SNP, tried on a machine without either: the same way as in the demo, with that layout and those rules."""

import json
from pathlib import Path

import numpy as np
import pytest

import tacit
from fakes import models
from fakes.programs import make_platform_folder
from fakes.stage import Stage, installed
from tacit.evidence import Tee

pytestmark = [pytest.mark.journey, pytest.mark.slow, pytest.mark.timeout(600)]

COLLATERAL = Path(__file__).parents[1] / "vectors" / "evidence" / "v4-gce-cos113-uptodate" / "collateral.json"
ROWS = np.ones((2, 4), np.float32)
REGISTER = {Tee.SIMULATED_TDX: "MRTD", Tee.SIMULATED_SNP: "MEASUREMENT"}


@pytest.mark.parametrize("kind", list(REGISTER))
def test_the_whole_way_runs_and_says_simulated(kind: Tee, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = make_platform_folder(tmp_path / "platform")
    stage = Stage(tmp_path, str(kind), lambda _: {}, env={"TACIT_PLATFORM": str(platform), "TACIT_SIMULATE": str(kind)})

    def package(program: str) -> dict[str, object]:
        told: dict[str, object] = json.loads(
            stage.types("package-info", program, "--tee", str(kind), "--output", "json")
        )
        return told

    stage.package = package
    with stage:
        stage.prepare()
        server = stage.start_server()
        server.wait_for('"ready"')
        assert f"activated as server, {kind.upper()}" in server.said
        assert "SIMULATED: a simulated TEE protects nothing" in server.said
        assert f'"tee":"{kind}"' in stage.running[0].said
        monkeypatch.setenv("TACIT_PLATFORM", str(platform))
        with tacit.connect(stage.host, config=tmp_path / ".config" / "tacit") as session:
            assert (session.tee, session.simulated) == (str(kind), True)
            assert session.coordinator.claims is not None
            assert REGISTER[kind] in session.coordinator.claims.registers
            answer = session.model("m", address=f"localhost:{stage.port}").predict(ROWS)
        np.testing.assert_allclose(answer, ROWS @ models.WEIGHTS, rtol=1e-5)
        refuse_others(stage, kind, tmp_path)


def refuse_others(stage: Stage, kind: Tee, folder: Path) -> None:
    """Another kind than the one that was asked for is refused, on both sides, also from the very same platform."""
    other = stage.start_server(TACIT_SIMULATE="simulated", EDG_MARBLE_UUID_FILE=str(folder / "other"))
    assert other.process.wait(60) == 1
    assert "evidence is from a simulated TEE; " in other.said
    assert f"the package allows {kind}" in other.said
    for real in ("tdx", "snp"):
        registers = {"MRTD": "31" * 48} if real == "tdx" else {"MEASUREMENT": "31" * 48}
        (folder / "real.json").write_text(json.dumps({"TEE": real, "Measurements": registers}))
        stage.types("trust", stage.host, "--forget")
        stage.types("trust", stage.host, "--tee", real, "--package", "real.json", "--collateral", str(COLLATERAL))
        done = stage.try_to("status", stage.host, run=installed)
        assert done.returncode == 1
        assert done.stdout == ""
