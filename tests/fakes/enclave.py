"""Runs one of our programs as it would run in Gramine on SGX, in a process of its own; or one outside, that asks it.

    python enclave.py FOLDER coordinator|premain|tacit [ARGUMENT...]

Only the hardware is missing: `/dev/attestation` is a fake whose quotes a test's Intel signs, and that one's root stands in
this process where Intel's is pinned. Measurements are those of the installed modules. FOLDER holds the maker's keys.
Inside, the kernel refuses the calls that Gramine does not have, also to the server that premain becomes.
"""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.gramine_calls import refuse_calls
from fakes.machine import FakeGramine
from fakes.makers import load_maker
from tacit.evidence.issue import load_inventory
from tacit.evidence.simulated.quote import Enclave, issue_quote

SIGNER = b"\x5e" * 32
PRODUCTS = {"coordinator": 1, "marble": 2}
PROGRAMS = {"coordinator": "coordinator", "premain": "marble"}


def enclave_of(program: str) -> Enclave:
    """What a quote says of `coordinator` or `marble`."""
    return Enclave(load_inventory(program).measurement(), SIGNER, PRODUCTS[program], 1)


def main() -> None:
    folder, program = Path(sys.argv[1]), sys.argv[2]
    sys.argv = [f"tacit-{program}" if program != "tacit" else "tacit", *sys.argv[3:]]
    maker = load_maker(folder)
    maker.pin(pytest.MonkeyPatch())
    if program in PROGRAMS:
        refuse_calls()
        from tacit.programs.tee import surroundings

        enclave = enclave_of(PROGRAMS[program])
        surroundings.KERNEL = FakeGramine(
            lambda data: issue_quote(enclave, data, keys=maker.quoting_keys), measurement=enclave.measurement
        )
    importlib.import_module(f"tacit.programs.{program}").main()


if __name__ == "__main__":
    main()
