"""What is tried before a manifest or a secret is taken: whether templates can be filled in, not what chance brings."""

from dataclasses import replace

import pytest

from fakes.core import encode, make_order, make_world
from fakes.tee import NOW
from tacit.coordinator.core import Coordinator, Settings
from tacit.coordinator.secrets import NewValue
from tacit.coordinator.store import MemoryStore
from tacit.errors import TemplateError
from tacit.pki import issue_self_signed

TEXT = '{{ printf "%s" .Secrets.key.Public }}'


def set_up(env: str, secrets: dict[str, object]) -> Coordinator:
    """A coordinator whose chance gives nothing but zero bytes, and a manifest with one variable."""
    world, _ = make_world()
    core = Coordinator(
        MemoryStore(), Settings(("localhost",)), replace(world, random=bytes), contents=None, recovery=False
    )
    owner = issue_self_signed(["ann"], common_name="ann", now=NOW)
    core.set_manifest(
        encode(
            {
                "Packages": {"p": {"Debug": True}},
                "Marbles": {"m": {"Package": "p", "Parameters": {"Env": {"A": env}}}},
                "Secrets": secrets,
                "Users": {"ann": {"Certificate": owner.certificate_pem.decode(), "Roles": ["w"]}},
                "Roles": {"w": {"ResourceType": "Secrets", "ResourceNames": ["tok"], "Actions": ["WriteSecret"]}},
            }
        )
    )
    return core


TOKEN = {"Type": "plain", "UserDefined": True}


@pytest.mark.parametrize("shared", [False, True])
def test_a_manifest_is_not_refused_for_a_zero_byte_in_a_generated_key(shared: bool) -> None:
    core = set_up(TEXT, {"key": {"Type": "symmetric-key", "Size": 256, "Shared": shared}, "tok": TOKEN})
    core.write_secrets("ann", {"tok": NewValue(key=b"word")})


def test_a_zero_byte_that_a_secret_brings_into_a_variable_is_refused_at_activation() -> None:
    core = set_up(TEXT.replace("key", "tok"), {"tok": TOKEN})
    core.write_secrets("ann", {"tok": NewValue(key=b"a\0b")})
    with pytest.raises(TemplateError, match="parsing secrets for env variable .*null bytes"):
        core.activate(make_order())


def test_a_zero_byte_in_the_manifest_is_refused_when_it_is_set() -> None:
    with pytest.raises(TemplateError, match="in Marble m: env variable: A: content contains null bytes"):
        set_up("a\0b", {"tok": TOKEN})
