"""What owners give as values of their secrets, in MarbleRun's words where it does not fit."""

from typing import Any

import pytest

from fakes.core import Made, encode, make_coordinator, make_order
from fakes.tee import NOW
from tacit.coordinator.secrets import NewValue
from tacit.errors import SecretError, TemplateError
from tacit.pki import issue_self_signed

OWNER = issue_self_signed(["owner"], common_name="owner", now=NOW)
SECRETS = {
    "word": {"Type": "plain", "UserDefined": True},
    "unused": {"Type": "plain", "UserDefined": True},
    "key": {"Type": "symmetric-key", "Size": 256, "UserDefined": True},
    "cert": {"Type": "cert-ecdsa", "Size": 384, "UserDefined": True},
}


def set_up(**parameters: Any) -> Made:
    made = make_coordinator()
    made.core.set_manifest(
        encode(
            {
                "Packages": {"p": {"Debug": True}},
                "Marbles": {"m": {"Package": "p", "Parameters": parameters}},
                "Secrets": SECRETS,
                "Users": {"owner": {"Certificate": OWNER.certificate_pem.decode(), "Roles": ["r"]}},
                "Roles": {"r": {"ResourceType": "Secrets", "ResourceNames": list(SECRETS), "Actions": ["WriteSecret"]}},
            }
        )
    )
    return made


@pytest.mark.parametrize("template", ["{{ hex .Secrets.word }}", "{{ raw .Secrets.word }}"])
def test_t21_a_secret_that_templates_use_is_not_emptied(template: str) -> None:
    made = set_up(Files={"/f": template})
    made.core.write_secrets("owner", {"word": NewValue(key=b"first")})
    before = made.core.holdings
    with pytest.raises(TemplateError, match=r"dry run: .*tried to parse secret with empty value"):
        made.core.write_secrets("owner", {"word": NewValue()})
    assert made.core.holdings is before
    assert made.core.activate(make_order()).files


def test_a_secret_that_no_template_uses_may_be_emptied() -> None:
    made = set_up(Files={"/f": "{{ if .Secrets.word.Private }}set{{ else }}empty{{ end }}{{ hex .Secrets.key }}"})
    made.core.write_secrets("owner", {"word": NewValue(key=b"first"), "unused": NewValue(key=b"first")})
    made.core.write_secrets("owner", {"word": NewValue(), "unused": NewValue()})
    held = made.core.holdings.secrets
    assert (held["word"].private, held["unused"].private) == (b"", b"")
    made.core.write_secrets("owner", {"key": NewValue(key=b"k" * 32)})
    assert made.core.activate(make_order()).files["/f"] == b"empty" + b"k".hex().encode() * 32


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("key", NewValue(certificate=b"c", private=b"p"), "declared size and actual size don't match: key"),
        ("key", NewValue(private=b"p"), "declared size and actual size don't match: key"),
        (
            "key",
            NewValue(key=b"k" * 32, certificate=b"c"),
            "secret key is set to be of type symmetric-key but specified values for a certificate",
        ),
        (
            "word",
            NewValue(key=b"k", private=b"p"),
            "secret word is set to be of type symmetric-key but specified values for a certificate",
        ),
        (
            "cert",
            NewValue(key=b"k"),
            "secret cert is set to be of type cert-ecdsa but specified values for a symmetric-key",
        ),
    ],
)
def test_a_keys_size_is_looked_at_before_what_stands_beside_it(name: str, value: NewValue, words: str) -> None:
    made = set_up()
    with pytest.raises(SecretError) as refused:
        made.core.write_secrets("owner", {name: value})
    assert str(refused.value) == f"parsing new secrets: {words}"
