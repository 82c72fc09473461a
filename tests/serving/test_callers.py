"""Who may call which model, and who may manage the server."""

import hashlib
import json

import pytest

from fakes.served import example
from tacit.errors import RequestError, Status, UsageError
from tacit.serving.callers import Caller, Callers, Client, caller_of, parse_clients
from tacit.serving.plane import Plane, Selector

CERTIFICATE, TOKEN = b"a certificate's DER", b"a long random token"


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def clients(**more: object) -> list[Client]:
    return [
        Client("by certificate", certificate=sha256(CERTIFICATE), models=frozenset(("half_plus_two",))),
        Client("by token", token=sha256(TOKEN), models=frozenset(("half_plus_two", "other"))),
        Client("manager", certificate=sha256(b"manager"), manages=True),
        Client("manager by token", token=sha256(b"manager"), manages=True),
    ]


def test_where_no_client_is_named_everybody_may_call() -> None:
    Callers().check_model("m", None)
    Callers([Client("manager", certificate=sha256(b"m"), manages=True)]).check_model("m", Caller())


@pytest.mark.parametrize("caller", [Caller(CERTIFICATE), Caller(None, TOKEN), Caller(b"another", TOKEN)])
def test_a_client_that_names_the_model_may_call_it(caller: Caller) -> None:
    Callers(clients()).check_model("half_plus_two", caller)


@pytest.mark.parametrize(
    ("caller", "model", "status"),
    [
        (None, "half_plus_two", Status.UNAUTHENTICATED),
        (Caller(), "half_plus_two", Status.UNAUTHENTICATED),
        (Caller(b"another"), "half_plus_two", Status.UNAUTHENTICATED),
        (Caller(None, TOKEN + b"x"), "half_plus_two", Status.UNAUTHENTICATED),
        (Caller(CERTIFICATE), "other", Status.PERMISSION_DENIED),
        (Caller(CERTIFICATE), "no such model", Status.PERMISSION_DENIED),
        (Caller(b"manager"), "half_plus_two", Status.PERMISSION_DENIED),
    ],
)
def test_t57_everybody_else_is_refused(caller: Caller | None, model: str, status: Status) -> None:
    with pytest.raises(RequestError) as refused:
        Callers(clients()).check_model(model, caller)
    assert refused.value.status is status


def test_a_client_with_certificate_and_token_must_show_both() -> None:
    both = Callers([Client("b", sha256(CERTIFICATE), sha256(TOKEN), frozenset("m"))])
    both.check_model("m", Caller(CERTIFICATE, TOKEN))
    for caller in (Caller(CERTIFICATE), Caller(None, TOKEN)):
        with pytest.raises(RequestError):
            both.check_model("m", caller)


def test_a_server_without_a_manifest_is_managed_by_whoever_reaches_it() -> None:
    Callers().check_management(None)


@pytest.mark.parametrize(
    ("caller", "status"),
    [
        (None, Status.UNAUTHENTICATED),
        (Caller(b"another"), Status.UNAUTHENTICATED),
        (Caller(CERTIFICATE), Status.PERMISSION_DENIED),
        (Caller(None, b"manager"), Status.PERMISSION_DENIED),
    ],
)
def test_t47_management_needs_a_certificate_that_the_manifest_names(caller: Caller | None, status: Status) -> None:
    callers = Callers(clients(), anybody_manages=False)
    callers.check_management(Caller(b"manager"))
    with pytest.raises(RequestError) as refused:
        callers.check_management(caller)
    assert refused.value.status is status


def test_t47_management_is_off_where_the_manifest_names_nobody_for_it() -> None:
    with pytest.raises(RequestError, match="management is off") as refused:
        Callers(anybody_manages=False).check_management(Caller(CERTIFICATE))
    assert refused.value.status is Status.PERMISSION_DENIED


def test_t56_a_stranger_learns_nothing_of_which_models_there_are() -> None:
    plane = Plane(example(), Callers(clients()))
    answers = set()
    for model in ("half_plus_two", "no such model"):
        for ask in (plane.find, plane.statuses):
            with pytest.raises(RequestError) as refused:
                ask(Selector(model, caller=Caller(b"stranger")))
            answers.add((refused.value.status, str(refused.value)))
    assert len(answers) == 1


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", b"abc"), ("bearer  abc ", b"abc"), ("Basic abc", b""), ("", b""), ("Bearer", b"")],
)
def test_a_token_is_read_from_its_header(header: str, token: bytes) -> None:
    assert caller_of(None, {"authorization": header}).token == token
    assert "abc" not in repr(caller_of(None, {"authorization": header}))


def test_clients_are_read_as_a_coordinator_writes_them() -> None:
    text = json.dumps({"c": {"certificate": "00" * 32, "token": "11" * 32, "models": ["m"], "management": True}})
    assert parse_clients(text) == [Client("c", bytes(32), b"\x11" * 32, frozenset("m"), True)]


@pytest.mark.parametrize(
    "text", ["no", "[]", '{"c": {"certificate": "00"}}', '{"c": {"token": "zz"}}', '{"c": {"x": 1}}']
)
def test_clients_that_no_coordinator_wrote_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="TACIT_CLIENTS is not what a coordinator writes"):
        parse_clients(text)
