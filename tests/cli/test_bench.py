import itertools
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image

from fakes.command_line import Outcome, run_command
from fakes.prediction_server import PredictionServer, answer_of, prediction_server
from tacit.cli.inference.bench import Run, bench, summarize

pytestmark = pytest.mark.slow

SMALL = ("--shape", "2,2,3")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[PredictionServer]:
    leaf = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    with prediction_server((leaf.private_key_pem.bytes(), chain)) as server:
        yield server


@pytest.fixture
def plain() -> Iterator[PredictionServer]:
    with prediction_server() as server:
        yield server


@pytest.fixture
def crt(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "tensorflow.crt"
    path.write_bytes(authority.cert_pem.bytes())
    return path


def run_bench(port: int, *words: object) -> Outcome:
    return run_command(bench, "--url", f"localhost:{port}", *SMALL, *words)


def test_every_call_has_its_line_in_the_originals_form(secure: PredictionServer, crt: Path) -> None:
    done = run_bench(secure.port, "--crt", crt, "--cnum", 2, "--loop", 3, "--batch", 4)
    queries = [line for line in done.lines if line.startswith("query")]
    form = r"query: secure channel, task [01], batch 4, loop_idx [012], latency\(ms\) \d+\.\d, tps: \d+\.\d"
    assert done.code == 0
    assert len(queries) == 6
    assert all(re.fullmatch(form, line) for line in queries)


def test_an_intermediate_certificate_alone_is_trusted(tmp_path: Path) -> None:
    # `tacit certificate intermediate` gives one that another certificate signed; nothing above it is known here.
    intermediate = trustme.CA().create_child_ca()
    leaf = intermediate.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    (tmp_path / "i.crt").write_bytes(intermediate.cert_pem.bytes())
    with prediction_server((leaf.private_key_pem.bytes(), chain)) as server:
        done = run_bench(server.port, "--crt", tmp_path / "i.crt", "--cnum", 1, "--loop", 1)
    assert done.code == 0, done.err


def test_a_certificate_that_says_simulated_is_repeated(secure: PredictionServer, crt: Path) -> None:
    assert run_bench(secure.port, "--crt", crt, "--loop", 1).err == ""
    marked = trustme.CA(organization_unit_name="SIMULATED").cert_pem.bytes()
    crt.write_bytes(crt.read_bytes() + marked)
    done = run_bench(secure.port, "--crt", crt, "--loop", 1)
    assert done.code == 0
    assert done.err == f"Note: by {crt} this server is SIMULATED: nothing protects the input.\n"


def test_without_a_certificate_the_lines_say_insecure(plain: PredictionServer) -> None:
    assert (
        run_bench(plain.port, "--cnum", 1, "--loop", 1)
        .lines[0]
        .startswith("query: insecure channel, task 0, batch 1, loop_idx 0,")
    )


def test_the_first_answer_is_printed_as_a_dict_and_then_the_summary(plain: PredictionServer) -> None:
    answer, summary, percentiles = run_bench(plain.port, "--cnum", 1, "--loop", 2).lines[-3:]
    assert "'floatVal': [0.25, 0.75]" in answer
    number = r"\d+\.\d+(e-\d+)?"
    assert re.fullmatch(
        rf"summary: cnum 1, batch 1, e2e time\(s\) {number}, average latency\(ms\) {number}, tps: {number}", summary
    )
    assert re.fullmatch(
        r"percentiles: latency\(ms\) min [\d.]+, p50 [\d.]+, p90 [\d.]+, p99 [\d.]+, max [\d.]+", percentiles
    )


def test_five_calls_on_each_channel_warm_up_unseen(plain: PredictionServer) -> None:
    done = run_bench(plain.port, "--cnum", 2, "--loop", 3)
    assert len(plain.requests) == 2 * (5 + 3)
    assert sum(line.startswith("query") for line in done.lines) == 6


def test_the_request_is_the_originals(plain: PredictionServer) -> None:
    run_command(bench, "--url", f"localhost:{plain.port}", "--cnum", 1, "--loop", 1, "--batch", 2)
    request = plain.requests[0]
    tensor = request.inputs["input"]
    pixels = np.frombuffer(tensor.tensor_content, dtype="<f4")
    assert (request.model_spec.name, request.model_spec.signature_name) == ("resnet50", "serving_default")
    assert [dim.size for dim in tensor.tensor_shape.dim] == [2, 224, 224, 3]
    assert pixels.size == 2 * 224 * 224 * 3
    assert 0 <= pixels.min() < pixels.max() <= 255


def test_each_channel_has_a_request_of_its_own(plain: PredictionServer) -> None:
    run_bench(plain.port, "--cnum", 3, "--loop", 1)
    assert len({request.inputs["input"].tensor_content for request in plain.requests}) == 3


def test_another_model_input_and_shape_can_be_named(plain: PredictionServer) -> None:
    run_command(
        bench,
        "--url",
        f"localhost:{plain.port}",
        "--cnum",
        1,
        "--loop",
        1,
        "--model",
        "digits",
        "--input",
        "x",
        "--shape",
        "64",
    )
    assert plain.requests[0].model_spec.name == "digits"
    assert [dim.size for dim in plain.requests[0].inputs["x"].tensor_shape.dim] == [1, 64]


def test_an_answer_above_four_mebibytes_is_taken() -> None:
    with prediction_server(answer=lambda context: answer_of([0.5] * 1_300_000)) as server:
        assert run_bench(server.port, "--cnum", 1, "--loop", 1).code == 0


def test_a_picture_is_resized_and_sent_as_red_green_blue(plain: PredictionServer, tmp_path: Path) -> None:
    picture = tmp_path / "red.png"
    Image.new("RGB", (50, 40), (255, 0, 128)).save(picture)
    done = run_command(
        bench, "--url", f"localhost:{plain.port}", "--cnum", 1, "--loop", 1, "--batch", 1, "--img", str(picture)
    )
    pixels = np.frombuffer(plain.requests[0].inputs["input"].tensor_content, dtype="<f4").reshape(1, 224, 224, 3)
    assert done.code == 0
    assert pixels[0, 100, 100].tolist() == [255.0, 0.0, 128.0]


def test_loop_zero_goes_on_until_interrupted_and_then_sums_up() -> None:
    calls = itertools.count(1)

    def answer(_context: object) -> bytes:
        # The signal comes once calls were answered; it is delivered to the main thread, which runs the command.
        if next(calls) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return answer_of([0.25, 0.75])

    with prediction_server(answer=answer) as server:
        done = run_bench(server.port, "--cnum", 2, "--loop", 0)
    assert done.code == 0
    assert re.match(r"query: insecure channel, task \d, batch 1, latency\(ms\)", done.lines[0])
    assert done.lines[-2].startswith("summary: cnum 2, batch 1,")


def test_percentiles_are_latencies_that_were_seen() -> None:
    run = Run(latencies=[index / 1024 for index in range(100, 0, -1)], seconds=2.0)
    summary, _ = summarize(run, channels=4, batch=8)
    assert summary == "summary: cnum 4, batch 8, e2e time(s) 2.0, average latency(ms) 49.31640625, tps: 400.0"
    run.latencies = [index / 1000 for index in range(100, 0, -1)]
    _, percentiles = summarize(run, channels=4, batch=8)
    assert percentiles == "percentiles: latency(ms) min 1.0, p50 50.0, p90 90.0, p99 99.0, max 100.0"


def test_a_server_that_is_not_there_is_one_line() -> None:
    with socket.socket() as held:  # by us, who do not listen: so nobody else does
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        done = run_bench(port, "--cnum", 2, "--loop", 1)
    assert done.code == 1
    assert f"Error: localhost:{port} cannot be reached" in done.err


def test_a_certificate_of_somebody_else_is_one_line(secure: PredictionServer, tmp_path: Path) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(trustme.CA().cert_pem.bytes())
    done = run_bench(secure.port, "--crt", other, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "does not lead to the one given with --crt" in done.err


def test_another_name_than_the_certificates_is_one_line(secure: PredictionServer, crt: Path) -> None:
    done = run_command(bench, "--url", f"127.0.0.1:{secure.port}", "--crt", crt, *SMALL, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "has another name" in done.err


def test_tls_to_a_plaintext_server_is_one_line(plain: PredictionServer, crt: Path) -> None:
    done = run_bench(plain.port, "--crt", crt, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "does not speak TLS: nothing protects what is sent there" in done.err


def test_plaintext_to_a_tls_server_is_one_line(secure: PredictionServer) -> None:
    done = run_bench(secure.port, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "does it speak TLS?" in done.err


def test_a_model_that_is_not_served_is_one_line() -> None:
    import grpc

    def refuse(context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(resnet50)")

    with prediction_server(answer=refuse) as server:
        done = run_bench(server.port, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "Servable not found for request: Latest(resnet50); name a model that it serves with --model" in done.err


def test_an_answer_that_is_no_prediction_is_one_line() -> None:
    with prediction_server(answer=lambda context: b"\xff\xff\xff") as server:
        done = run_bench(server.port, "--cnum", 1, "--loop", 1)
    assert done.code == 1
    assert "no PredictResponse" in done.err


def test_an_answer_that_does_not_come_is_one_line() -> None:
    let_go = threading.Event()
    with prediction_server(answer=lambda context: b"" if let_go.wait(60) else b"late") as server:
        done = run_bench(server.port, "--cnum", 1, "--loop", 1, "--timeout", "0.3")
        let_go.set()
    assert done.code == 1
    assert "no answer within 0.3 s" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--url", "localhost"], "expected HOST:PORT"),
        (["--url", "https://localhost:8500"], "expected HOST:PORT"),
        (["--url", "localhost:99999"], "expected HOST:PORT"),
        (["--shape", "2,x"], "is no shape"),
        (["--shape", "0"], "is no shape"),
        (["--batch", "2", "--img", "x.png"], "--batch 1"),
        (["--shape", "64", "--img", "x.png"], "height, width"),
        (["--batch", "100000"], "GiB"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_two(words: list[str], said: str) -> None:
    done = run_command(bench, *words)
    assert done.code == 2
    assert said in done.err


@pytest.mark.parametrize("word", ["--cnum=0", "--batch=0", "--loop=-1", "--nonsense"])
def test_an_impossible_number_or_option_is_exit_two(word: str) -> None:
    assert run_command(bench, word).code == 2


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), (b"", "empty"), (b"hello", "PEM form")])
def test_a_bad_certificate_file_is_one_line(content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.crt"
    if content is not None:
        path.write_bytes(content)
    done = run_command(bench, "--crt", path)
    assert done.code == 1
    assert said in done.err


def test_a_bad_picture_file_is_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    for name, content, said in [
        ("text.png", b"hello", "not a picture"),
        ("cut.png", whole.read_bytes()[:600], "damaged"),
        ("empty.png", b"", "empty"),
    ]:
        (tmp_path / name).write_bytes(content)
        done = run_command(bench, "--img", tmp_path / name, "--batch", 1)
        assert done.code == 1
        assert said in done.err
