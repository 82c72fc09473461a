"""The verbs about a cluster as they are typed: wrong words, and what is missing on this machine, in one line."""

import sys
from pathlib import Path

import pytest

from fakes.command_line import run_main
from tacit.cli.cluster import commands
from tacit.kube.install import Wish


@pytest.fixture(autouse=True)
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without helm and without a cluster."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


@pytest.mark.parametrize("verb", ["install", "uninstall"])
def test_without_helm_one_line_says_where_to_get_it(verb: str) -> None:
    done = run_main(verb)
    assert done.code == 1
    assert done.err.startswith("Error: there is no `helm` in the PATH")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("precheck",),
        ("check",),
        ("namespace", "list"),
        ("namespace", "add", "x"),
        ("--kube", "status"),
        ("secret", "get", "a", "--kube", "-c", "c", "-k", "k"),
        ("--kube", "version"),
    ],
)
def test_without_a_cluster_one_line_says_so(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run_main(*words)
    assert done.code == 1
    assert done.err.startswith("Error: ")
    assert len(done.err.splitlines()) == 1
    assert "kubeconfig names no cluster that can be used" in done.err or "open c: no such file" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("install", "--simulation", "--unattested"), "say one of them"),
        (("install", "--resource-key", "nonsense"), "names no resource"),
        (("install", "--values", "nowhere.yaml"), "there is no file nowhere.yaml"),
        (("install", "--client-server-port", "0"), "--client-server-port"),
        (("install", "--chart", "nowhere"), "there is no chart at nowhere"),
        (("check", "more"), "unexpected extra argument"),
        (("namespace", "add", "x", "Bad_Name"), "'Bad_Name' is no namespace"),
        (("namespace", "remove", "x/secrets/y"), "'x/secrets/y' is no namespace"),
        (("namespace", "remove"), "NAMESPACE"),
        (("--kube", "install"), "--kube is for commands that ask a coordinator"),
    ],
)
def test_wrong_words_are_one_line(words: tuple[str, ...], said: str) -> None:
    done = run_main(*words)
    assert done.code == 1
    assert said in done.err
    assert len(done.err.splitlines()) == 1


def test_where_collateral_comes_from_is_wished_of_the_chart(monkeypatch: pytest.MonkeyPatch) -> None:
    wished: list[Wish] = []
    monkeypatch.setattr(commands, "_run_install", lambda wish, chart: wished.append(wish))
    assert run_main("install", "--dcap-pccs-url", "https://pccs.local", "--kds-url", "http://kds.local").code == 0
    assert run_main("install").code == 0
    assert [(wish.pccs, wish.kds) for wish in wished] == [("https://pccs.local", "http://kds.local"), ("", "")]


def test_with_the_way_through_the_cluster_a_coordinator_need_not_be_named() -> None:
    done = run_main("--kube", "-n", "shop", "trust", "--tee", "unattested")
    assert done.code == 0, done.err
    assert "at coordinator-client-api.shop:4433" in done.out
    assert "coordinator-client-api.shop:4433" in run_main("trust").out


def test_without_a_client_for_kubernetes_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tacit.kube.cluster", None)
    done = run_main("precheck")
    assert (done.code, done.out) == (1, "")
    assert "pip install 'tacit[kube]'" in done.err
