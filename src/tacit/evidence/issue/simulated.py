"""A simulated TEE around this process, from the platform's folder. Touches files; for composition roots."""

import contextlib
import secrets
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import PlatformError
from tacit.evidence.claims import PackageInfo, Tee
from tacit.evidence.issue.folder import load_platform, locked, store
from tacit.evidence.issue.program import find_program, load_inventory
from tacit.evidence.simulated.platform import (
    PLATFORM_FILE,
    PlatformKeys,
    SimulatedPlatform,
    refresh_platform,
    render_platform,
)
from tacit.evidence.simulated.quote import Enclave, QuotingKeys, issue_quote
from tacit.evidence.simulated.snp import generate_chip, guest, issue_report, lowest_tcb
from tacit.evidence.simulated.tdx import issue_td_quote, trust_domain
from tacit.evidence.verify.binding import length_prefixed
from tacit.evidence.verify.envelope import wrap

_SEAL_LABEL = b"tacit simulated seal key v1\0"


def load_package_info(folder: Path, *, program: str, tee: Tee = Tee.SIMULATED) -> PackageInfo:
    """What a manifest has to say about a program on this platform; its public part is enough.

    Raises:
        PlatformError: no platform, or no such program.
    """
    return _package_info(_load_enclave(load_platform(folder), program), tee)


def _package_info(enclave: Enclave, tee: Tee) -> PackageInfo:
    if tee is Tee.SIMULATED:
        return PackageInfo(
            tee, enclave.measurement, enclave.signer, enclave.product_id, enclave.security_version, enclave.debug
        )
    if tee is Tee.SIMULATED_TDX:
        domain = trust_domain(enclave)
        registers = {"MRTD": domain.mr_td, **{f"RTMR{number}": value for number, value in enumerate(domain.rtmrs)}}
        return PackageInfo(tee, domain.mr_td, b"", 0, 0, debug=False, measurements=registers)
    measured = guest(enclave).measurement
    lowest = lowest_tcb()
    return PackageInfo(
        tee, measured, b"", 0, 0, debug=False, measurements={"MEASUREMENT": measured}, minimum_tcb=lowest
    )


def _load_enclave(platform: SimulatedPlatform, program: str) -> Enclave:
    described = find_program(program)
    return Enclave(
        measurement=load_inventory(program).measurement(),
        signer=platform.signer_id,
        product_id=described.product_id,
        security_version=described.security_version,
    )


class SimulatedTee:
    """A simulated TEE around this process. Protects nothing: whoever reads the platform's folder can do the same.

    `tee` is the kind of simulation: of an SGX enclave, a TD or an SNP guest. `machine` tells the machines apart that have
    one platform in common, as the nodes of a cluster: what one sealed, another does not open. Empty: there is one.
    """

    def __init__(
        self,
        platform: SimulatedPlatform,
        keys: PlatformKeys,
        enclave: Enclave,
        tee: Tee = Tee.SIMULATED,
        machine: str = "",
    ) -> None:
        self._machine = machine
        self._platform = platform
        self._keys = keys
        self._enclave = enclave
        self._tee = tee

    @property
    def tee(self) -> Tee:
        """One of the simulated kinds."""
        return self._tee

    @property
    def package_info(self) -> PackageInfo:
        """What a manifest has to say about this very program."""
        return _package_info(self._enclave, self._tee)

    def issue_evidence(self, data: bytes) -> bytes:
        """Evidence over 64 bytes of report data: an SGX quote in Open Enclave's envelope, a TD's quote, a report.

        Raises:
            InputError: report data of another size.
        """
        if self._tee is Tee.SIMULATED_SNP and self._platform.snp is not None:
            return issue_report(guest(self._enclave), data, chip=self._platform.snp)
        keys = QuotingKeys(self._keys.attestation, self._keys.pck, self._platform.pck_chain, self._platform.cpu_svn)
        if self._tee is Tee.SIMULATED_TDX:
            return issue_td_quote(trust_domain(self._enclave), data, keys=keys)
        return wrap(issue_quote(self._enclave, data, keys=keys))

    def derive_seal_key(self, *, bound_to: Literal["signer", "measurement"]) -> bytes:
        """32 bytes that this program gets on this platform every time.

        Bound to "signer", all versions of this program get the same; bound to "measurement", this version alone.
        """
        identity = self._enclave.signer if bound_to == "signer" else self._enclave.measurement
        fields = [bound_to.encode(), identity, self._enclave.product_id.to_bytes(2, "big")]
        if self._tee is not Tee.SIMULATED:
            fields.append(self._tee.value.encode())  # what one kind sealed, another does not open
        if self._machine:
            fields.append(b"machine " + self._machine.encode())
        info = _SEAL_LABEL + b"".join(map(length_prefixed, fields))
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._keys.seal_secret)


def load_simulated_tee(
    folder: Path, *, program: str, now: datetime, tee: Tee = Tee.SIMULATED, machine: str = ""
) -> SimulatedTee:
    """The simulated TEE around this process, which says that it is `program` ("coordinator" or "marble").

    Collateral that has less than 30 days left is made anew and stored, if the folder can be written. A chip for SNP is
    made and stored when it is first asked for.

    Raises:
        PlatformError: no platform, only its public part, no such program, or no place for the new chip.
    """
    if not tee.is_simulated:
        raise PlatformError(f"a simulated platform makes no evidence of {tee}; ask for simulated-{tee}")
    platform = load_platform(folder)
    if platform.keys is None:
        raise PlatformError(
            f"{folder} holds only the public part of a simulated platform, which can verify but not make evidence; "
            "import a whole export of it"
        )
    fresh = refresh_platform(platform, now=now)
    if fresh is not platform:
        # A folder that is mounted read-only keeps its old collateral until its owner refreshes it.
        with contextlib.suppress(OSError):
            store(folder / PLATFORM_FILE, render_platform(fresh))
    if tee is Tee.SIMULATED_SNP and fresh.snp is None:
        fresh = _add_chip(folder, now)
    return SimulatedTee(fresh, platform.keys, _load_enclave(fresh, program), tee, machine)


def _add_chip(folder: Path, now: datetime) -> SimulatedPlatform:
    """The platform with an SNP chip, stored before anybody sees evidence of it.

    Raises:
        PlatformError: the folder cannot be written.
    """
    try:
        with locked(folder):
            platform = refresh_platform(load_platform(folder), now=now)
            if platform.snp is None:
                platform = platform.with_chip(generate_chip(now=now, random=secrets.token_bytes))
                store(folder / PLATFORM_FILE, render_platform(platform))
            return platform
    except OSError as exc:
        raise PlatformError(f"the simulated SNP chip cannot be written to {folder}: {exc.strerror}") from exc
