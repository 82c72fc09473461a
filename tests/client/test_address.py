import pytest

from tacit.client.address import Address, parse_address
from tacit.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", Address("localhost", 4433)),
        ("Coordinator.Example.org:4434", Address("coordinator.example.org", 4434)),
        ("127.0.0.1:1", Address("127.0.0.1", 1)),
        ("[::1]:65535", Address("::1", 65535)),
        ("[::1]", Address("::1", 4433)),
        ("::1", Address("::1", 4433)),
    ],
)
def test_an_address_is_a_host_with_an_optional_port(text: str, expected: Address) -> None:
    assert parse_address(text, default_port=4433) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":4433",
        "https://localhost:4433",
        "localhost/x",
        "local host",
        "a:0",
        "a:65536",
        "a:x",
        "a:",
        "[::1",
        "[::1]x",
        "a:+5",
        "a:٣",
    ],
)
def test_anything_else_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(InputError, match=r"expected|without"):
        parse_address(text, default_port=4433)


def test_an_ipv6_address_is_written_with_brackets() -> None:
    assert str(parse_address("::1", default_port=8500)) == "[::1]:8500"
