"""`tacit model download`, from a server on this machine."""

import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.command_line import Outcome, run_app
from fakes.graphs import constant, graph_bytes, node, placeholder, softmax_graph
from fakes.web_server import WebServer, web_server
from tacit.cli.model import app
from tacit.cli.model.download import PUBLISHED, PublishedModel, check_address, fetch_published
from tacit.errors import InputError, PeerError, TacitError, UnreachableError

GRAPH = softmax_graph()
DIGEST = hashlib.sha256(GRAPH).hexdigest()
NAME = "resnet50-v15-fp32"


@pytest.fixture
def server() -> Iterator[WebServer]:
    with web_server(GRAPH) as running:
        yield running


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


MODEL = Path("models") / NAME / f"{NAME}.pb"
BESIDE = MODEL.with_name(MODEL.name + ".sha256")
RECORD = Path("config/tacit/models.json")


def download(url: str, *more: object) -> Outcome:
    return run_app(app, "download", NAME, "--url", url, *more)


def nothing_is_left() -> bool:
    return not MODEL.exists() and not BESIDE.exists() and not RECORD.exists() and not list(Path().rglob("*.part"))


def test_a_first_download_is_kept_and_its_digest_recorded_twice(server: WebServer) -> None:
    done = download(server.url)
    assert done.code == 0
    assert done.lines == [f"Saved model to: {MODEL}", f"SHA-256 {DIGEST} (recorded, first download)"]
    assert MODEL.read_bytes() == GRAPH
    assert BESIDE.read_text() == f"{DIGEST}  {NAME}.pb\n"
    assert json.loads(RECORD.read_text()) == {NAME: {"sha256": DIGEST, "url": server.url}}


def test_a_model_that_is_there_is_checked_and_not_fetched_again(server: WebServer) -> None:
    download(server.url)
    done = download(server.url)
    assert done.lines == [f"Already downloaded: {MODEL}", f"SHA-256 {DIGEST} (as recorded)"]
    assert server.asked == 1


def test_another_folder_gets_the_recorded_bytes(server: WebServer) -> None:
    download(server.url)
    done = download(server.url, "--dir", "elsewhere")
    assert (done.code, "(as recorded)" in done.out) == (0, True)
    assert (Path("elsewhere") / NAME / f"{NAME}.pb").read_bytes() == GRAPH


@pytest.mark.parametrize("forgotten", [RECORD, BESIDE])
def test_changed_content_is_refused_by_either_record(forgotten: Path, server: WebServer) -> None:
    download(server.url)
    MODEL.unlink()
    forgotten.unlink()
    server.body = graph_bytes(placeholder("other", (1,)), node("predict", "Softmax", "other", T=1))
    done = download(server.url)
    assert (done.code, "gave other bytes than the first time" in done.err, DIGEST in done.err) == (1, True, True)
    assert not MODEL.exists()
    assert not list(Path().rglob("*.part"))


def test_a_file_that_was_changed_here_is_refused(server: WebServer) -> None:
    download(server.url)
    MODEL.write_bytes(GRAPH + b" ")
    done = download(server.url)
    assert (done.code, "was changed since it was downloaded" in done.err) == (1, True)


def test_a_file_of_ones_own_is_not_overwritten(server: WebServer) -> None:
    MODEL.parent.mkdir(parents=True)
    MODEL.write_text("mine")
    done = download(server.url)
    assert (done.code, "move it away" in done.err, MODEL.read_text()) == (1, True, "mine")


def test_a_body_that_is_cut_short_leaves_nothing(server: WebServer) -> None:
    server.send = len(GRAPH) - 40
    done = download(server.url)
    assert (done.code, "the connection broke" in done.err) == (1, True)
    assert nothing_is_left()


def test_a_cut_body_without_a_length_leaves_nothing(server: WebServer) -> None:
    server.headers = {"Content-Length": ""}
    server.send = len(GRAPH) - 40
    done = download(server.url)
    assert (done.code, "cut short; nothing was kept" in done.err) == (1, True)
    assert nothing_is_left()


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_refusal_leaves_nothing(status: int, server: WebServer) -> None:
    server.status = status
    done = download(server.url)
    assert (done.code, f"the server answered {status}" in done.err) == (1, True)
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("body", "said"), [(b"", "empty file"), (b"<html>sign in</html>", "not a frozen TensorFlow graph")]
)
def test_a_body_that_is_no_model_leaves_nothing(body: bytes, said: str, server: WebServer) -> None:
    server.body = body
    done = download(server.url)
    assert (done.code, said in done.err) == (1, True)
    assert nothing_is_left()


def test_a_compressed_body_is_refused(server: WebServer) -> None:
    server.headers = {"Content-Encoding": "gzip"}
    assert "compressed body" in download(server.url).err


def test_a_redirect_to_plain_http_elsewhere_is_refused(server: WebServer) -> None:
    server.status, server.headers = 302, {"Location": "http://192.0.2.1/model.pb"}
    done = download(server.url)
    assert (done.code, "only https is" in done.err) == (1, True)
    assert nothing_is_left()


def test_redirects_in_a_circle_end(server: WebServer) -> None:
    server.status, server.headers = 302, {"Location": "/model.pb"}
    assert "redirected more than" in download(server.url).err


def small(server: WebServer, *, largest: int = 1 << 20, timeout: float = 60.0) -> None:
    model = PublishedModel(NAME, server.url, f"{NAME}.pb", largest)
    fetch_published(
        model,
        MODEL.parent,
        url=server.url,
        config=Path("config/tacit"),
        progress=lambda done, total: None,
        timeout=timeout,
    )


def test_a_server_that_falls_silent_is_left(server: WebServer) -> None:
    server.pause = 30.0
    with pytest.raises(UnreachableError, match="no answer within"):
        small(server, timeout=0.3)
    assert nothing_is_left()


def test_a_slow_server_is_waited_for(server: WebServer) -> None:
    server.pause = 0.5
    small(server, timeout=60.0)
    assert MODEL.read_bytes() == GRAPH


@pytest.mark.parametrize("announced", ["", None])
def test_a_body_above_the_limit_is_refused_announced_or_not(announced: str | None, server: WebServer) -> None:
    import numpy as np

    server.body = graph_bytes(constant("x", np.zeros(100_000, dtype=np.float32)))
    server.headers = {} if announced is None else {"Content-Length": announced}
    with pytest.raises(PeerError, match="more than this model can have"):
        small(server, largest=1000)
    assert nothing_is_left()


def test_progress_ends_at_the_whole_size(server: WebServer) -> None:
    seen: list[tuple[int, int]] = []
    fetch_published(
        PUBLISHED[NAME],
        MODEL.parent,
        url=server.url,
        config=Path("config/tacit"),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (len(GRAPH), len(GRAPH))


def test_a_port_where_nobody_listens_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = download(f"http://127.0.0.1:{free.getsockname()[1]}/model.pb")
    assert (done.code, "cannot be reached" in done.err) == (1, True)
    assert nothing_is_left()


def test_tls_to_a_plain_server_is_one_line(server: WebServer) -> None:
    done = download(f"https://127.0.0.1:{server.port}/model.pb")
    assert (done.code, "TLS failed" in done.err) == (1, True)


@pytest.mark.parametrize(
    "url", ["http://example.com/x", "ftp://example.com/x", "file:///etc/passwd", "x", "", "https://"]
)
def test_an_address_that_is_not_https_is_refused(url: str) -> None:
    with pytest.raises(InputError):
        check_address(url)


@pytest.mark.parametrize(
    "url", ["https://example.com/x", "http://127.0.0.1:1/x", "http://[::1]/x", "http://localhost/x"]
)
def test_https_and_this_machine_are_taken(url: str) -> None:
    check_address(url)


@pytest.mark.parametrize(("path", "content"), [(RECORD, b"{nonsense"), (BESIDE, b"nonsense\n"), (RECORD, b"")])
def test_a_damaged_record_is_one_line(path: Path, content: bytes, server: WebServer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    done = download(server.url)
    assert (done.code, str(path) in done.err, "delete it" in done.err or "empty" in done.err) == (1, True, True)
    assert server.asked == 0


def test_an_unknown_name_is_wrong_usage() -> None:
    done = run_app(app, "download", "resnet51")
    assert (done.code, f"expected {NAME}" in done.err) == (2, True)


def test_a_folder_that_cannot_be_made_is_one_line(server: WebServer) -> None:
    Path("models").write_text("a file")
    done = download(server.url)
    assert (done.code, "not a folder" in done.err) == (1, True)


def test_the_published_address_is_the_demos() -> None:
    model = PUBLISHED[NAME]
    assert model.url.endswith("/intel-optimized-tensorflow/models/v1_8/resnet50_fp32_pretrained_model.pb")
    check_address(model.url)


def test_every_refusal_is_one_of_ours(server: WebServer) -> None:
    server.body = b"\x00" * 100
    with pytest.raises(TacitError):
        small(server)
