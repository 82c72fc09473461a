"""Which TEE makes a program's evidence: the real one around it, or a simulated one where there is none.

In a real TEE there is no way past it. What asks for less there (unattested mode, a simulated platform) ends the program
instead of being passed over: its host could have set it.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

from tacit.errors import UsageError
from tacit.evidence import Tee
from tacit.evidence.claims import Issuer
from tacit.evidence.issue import default_platform_folder, find_tee, load_simulated_tee, load_tee
from tacit.evidence.issue.kernel import LINUX, Kernel

SIMULATE = "TACIT_SIMULATE"
MACHINE = "TACIT_SIMULATE_MACHINE"
KERNEL: Kernel = LINUX

# Variable -> the values that ask for less than the real TEE; None for any.
_PRETENCE: Mapping[str, str | None] = {
    "TACIT_UNATTESTED": "1",
    "OE_SIMULATION": "1",
    SIMULATE: None,
    MACHINE: None,
    "TACIT_PLATFORM": None,
}
_KINDS = tuple(tee for tee in Tee if tee.is_simulated)


def find_real_tee() -> Tee | None:
    """The real TEE around this process. Raises: TeeError."""
    return find_tee(KERNEL, _new_name)


def refuse_pretence(tee: Tee, environ: Mapping[str, str], *, flags: Sequence[str] = ()) -> None:
    """In a real TEE go neither simulated nor unattested: its host would choose what gets its secrets.

    Raises:
        UsageError: names the variable or flag that asks for it.
    """
    asked = [name for name, value in _PRETENCE.items() if environ.get(name) and value in (None, environ[name])]
    for one in (*flags, *asked):
        raise UsageError(
            f"this program runs in a real TEE ({tee}), and {one} asks it to go simulated or unattested: in a real TEE it never "
            f"does; take {one} out, or start it on a machine without a TEE"
        )


def load_real_tee(tee: Tee) -> Issuer:
    """The real TEE, ready to make evidence. Raises: TeeError."""
    return load_tee(KERNEL, _new_name, tee=tee)


def load_simulated(environ: Mapping[str, str], *, program: str, now: datetime) -> Issuer:
    """The simulated TEE that the environment asks for, an SGX enclave unless it names another kind.

    Raises:
        UsageError: no simulated kind.
        PlatformError: no platform to simulate.
    """
    return load_simulated_tee(default_platform_folder(environ), program=program, now=now, tee=simulated_kind(environ))


def simulated_kind(environ: Mapping[str, str]) -> Tee:
    """Which kind of simulation TACIT_SIMULATE asks for. Raises: UsageError."""
    named = environ.get(SIMULATE) or Tee.SIMULATED
    if named not in _KINDS:
        raise UsageError(f"{SIMULATE} is {named!r}; expected one of {', '.join(_KINDS)}")
    return Tee(named)


def _new_name() -> str:
    """For an entry of the kernel's reports; nobody else writes there."""
    return f"tacit-{os.getpid()}-{secrets.token_hex(8)}"
