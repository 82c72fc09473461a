"""The program `tacit-injector` as a cluster starts it: MarbleRun's arguments, its certificate files, one door by HTTPS."""

import asyncio
import json
import logging
import re
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tacit.errors import FileInputError, UsageError
from tacit.kube.injector.webhook import MAX_REVIEW
from tacit.pki import KeyPair, issue_self_signed
from tacit.programs import injector
from tacit.programs.injector import read_config, read_files, run, serve

NOW = datetime.now(UTC)
REVIEW = {
    "apiVersion": "admission.k8s.io/v1",
    "kind": "AdmissionReview",
    "request": {
        "uid": "a-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "object": {"metadata": {"labels": {"marblerun/marbletype": "T"}}, "spec": {"containers": [{"name": "c"}]}},
    },
}


def store(folder: Path, name: str = "localhost") -> KeyPair:
    pair = issue_self_signed([name], common_name=name, now=NOW)
    (folder / "tls.crt").write_bytes(pair.certificate_pem)
    (folder / "tls.key").write_bytes(pair.key_pem)
    return pair


def words(folder: Path, *more: str) -> list[str]:
    return [f"-tlsCertFile={folder / 'tls.crt'}", "-tlsKeyFile", str(folder / "tls.key"), *more]


def test_marbleruns_arguments_are_taken_with_one_dash_or_two() -> None:
    given = [
        "-coordAddr=coordinator-mesh-api.shop:2001",
        "--clusterDomain",
        "example.internal",
        "-sgxResource",
        "a.b/c=3",
    ]
    config = read_config(given, {})
    assert config.settings.coordinator == "coordinator-mesh-api.shop:2001"
    assert config.settings.cluster_domain == "example.internal"
    assert config.settings.wanted.limits == {"a.b/c": "3"}
    assert config.files == (Path("/etc/webhook/certs/tls.crt"), Path("/etc/webhook/certs/tls.key"))
    assert config.address == ("", 8443)


def test_a_certificate_of_its_own_knows_where_it_is_kept() -> None:
    given = ["--certificateSecret", "s", "--webhookConfiguration", "w"]
    place = read_config(given, {"POD_NAMESPACE": "shop"}).place
    assert place is not None
    assert (place.namespace, place.secret, place.configuration) == ("shop", "s", "w")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--coordAddr", "nowhere"], "--coordAddr"),
        (["--sgxResource", "epc"], "--sgxResource"),
        (["--addr", "8443"], "--addr"),
        (["--addr", ":99999"], "--addr"),
        (["--certificateSecret", "s"], "--webhookConfiguration"),
        (["--nonsense"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_one_line(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=said):
        read_config(given, {})
    assert run(given, {}) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_wrong_level_is_named() -> None:
    with pytest.raises(UsageError, match="EDG_HTTP_ERROR_LOG_LEVEL"):
        read_config([], {"EDG_HTTP_ERROR_LOG_LEVEL": "loud"})


def test_without_a_certificate_it_says_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(FileInputError, match=r"tls\.crt: No such file.*--certificateSecret"):
        read_files(tmp_path / "tls.crt", tmp_path / "tls.key")()


@pytest.mark.parametrize("damaged", ["tls.crt", "tls.key"])
def test_files_that_hold_no_pair_are_named(damaged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path)
    (tmp_path / damaged).write_bytes(b"nonsense")
    assert run(words(tmp_path, "--addr", "127.0.0.1:0"), {}) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{tmp_path / 'tls.crt'} and its key {tmp_path / 'tls.key'} cannot be used: " in said


async def test_the_door_serves_and_takes_a_new_certificate_when_the_files_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = store(tmp_path)
    caplog.set_level(logging.INFO)
    task = asyncio.create_task(serve(read_config(words(tmp_path, "--addr", "127.0.0.1:0"), {})))
    try:
        port = await port_told(caplog, task)
        done = await post(port, first, json.dumps(REVIEW).encode())
        assert done.json()["response"]["allowed"] is True
        assert (await post(port, first, b"{}")).status_code == 400
        assert (await post(port, first, b" " * (MAX_REVIEW + 1))).status_code == 413
        second = store(tmp_path)
        with pytest.raises(httpx.ConnectError):
            await post(port, first, b"{}")
        assert (await post(port, second, b"{}")).status_code == 400
        (tmp_path / "tls.key").write_bytes(b"damaged")  # the last good one stays
        assert (await post(port, second, b"{}")).status_code == 400
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def post(port: int, trusted: KeyPair, body: bytes) -> httpx.Response:
    context = ssl.create_default_context(cadata=trusted.certificate_pem.decode())
    async with httpx.AsyncClient(verify=context) as client:
        url = f"https://localhost:{port}/mutate"
        return await client.post(url, content=body, headers={"content-type": "application/json"})


async def port_told(caplog: pytest.LogCaptureFixture, task: "asyncio.Task[None]") -> int:
    async with asyncio.timeout(60):
        while not (found := re.search(r"listening on 127\.0\.0\.1:(\d+)", caplog.text)):
            if task.done():
                await task
            await asyncio.sleep(0.01)
    return int(found[1])


def test_its_help_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"], {})
    said = capsys.readouterr().out
    for option in ("coordAddr", "clusterDomain", "sgxResource", "tlsCertFile", "certificateSecret", "addr"):
        assert f"--{option}" in said
    assert injector.NAME in said
