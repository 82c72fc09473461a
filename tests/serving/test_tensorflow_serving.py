"""TensorFlow Serving's own models, stubs and integration tests, against our command line started as theirs is."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "TACIT_TENSORFLOW_PYTHON" not in os.environ,
        reason="TACIT_TENSORFLOW_PYTHON names no interpreter; `make tensorflow` makes one",
    ),
]

OUTSIDE = Path(__file__).parent / "outside"
NAMES = ("half_plus_two", "half_plus_three", "module", "keras", "signatures", "bad")
CASES = 19


def in_tensorflow(*arguments: object) -> str:
    done = subprocess.run(
        [os.environ["TACIT_TENSORFLOW_PYTHON"], *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def base(tmp_path: Path) -> Path:
    in_tensorflow(OUTSIDE / "make_models.py", tmp_path)
    bad = tmp_path / "bad" / "1"
    bad.mkdir(parents=True)
    (bad / "saved_model.pb").write_bytes(b"no model")
    config = "".join(
        f'config {{ name: "{name}", base_path: "{tmp_path / name}", model_platform: "tensorflow" }}\n' for name in NAMES
    )
    (tmp_path / "models.config").write_text(f"model_config_list: {{\n{config}}}\n")
    (tmp_path / "monitoring.config").write_text("prometheus_config: { enable: true }")
    return tmp_path


BATCHING = """max_batch_size { value: 128 }
batch_timeout_micros { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
"""


@pytest.fixture(params=["one by one", "in batches"])
def ports(base: Path, request: pytest.FixtureRequest) -> Iterator[dict[str, int]]:
    program = "from tacit.programs.serve import main; main()"
    flags = [
        "--port=-1",
        "--rest_api_port=-1",
        f"--port_file={base / 'ports.json'}",
        "--rest_api_timeout_in_ms=5000",
        f"--grpc_socket_path={base / 's'}",
        f"--model_config_file={base / 'models.config'}",
        f"--monitoring_config_file={base / 'monitoring.config'}",
        "--grpc_channel_arguments=grpc.max_connection_age_ms=2000,grpc.lb_policy_name=grpclb",
    ]
    if request.param == "in batches":
        (base / "batching.config").write_text(BATCHING)
        flags += ["--enable_batching", f"--batching_parameters_file={base / 'batching.config'}"]
    with (
        (base / "log").open("w") as log,
        subprocess.Popen([sys.executable, "-c", program, *flags], stderr=log) as server,
    ):
        try:
            for _ in range(1200):
                if (base / "log").read_text().count("model-available") == len(NAMES) - 1:
                    break
                time.sleep(0.1)
            yield json.loads((base / "ports.json").read_text())
        finally:
            server.terminate()
            assert server.wait(100) == 0


def test_tensorflow_servings_own_stubs_get_its_own_answers(base: Path, ports: dict[str, int]) -> None:
    said = in_tensorflow(
        OUTSIDE / "call_server.py", f"127.0.0.1:{ports['grpc']}", f"127.0.0.1:{ports['rest']}", base / "s", base
    )
    results = json.loads(said[said.index("{") :])
    assert len(results) == CASES
    wrong = {name: result for name, result in results.items() if result != "good"}
    assert not wrong, (wrong, (base / "log").read_text()[-3000:])


def test_a_bad_configuration_file_is_told_of_in_the_originals_words(tmp_path: Path) -> None:
    config = tmp_path / "bad.config"
    config.write_text("improperly formatted file\n")
    program = "from tacit.programs.serve import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, f"--model_config_file={config}"],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig" in done.stderr
