"""The TEE that this process runs in, and the folder that a simulated one lives in. Touches files; for composition roots.

The folder holds one file, `platform.json`, for its owner's eyes alone. Files are written under a temporary name and
renamed, so that no reader ever sees half a file.
"""

import contextlib
import fcntl
import os
import platform as python_platform
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tacit.errors import FileInputError, PlatformError
from tacit.evidence.anchor.strict_json import MAX_JSON_SIZE
from tacit.evidence.claims import Issuer, PackageInfo, Tee
from tacit.evidence.simulated.measure import (
    PACKAGE,
    Distribution,
    Inventory,
    Module,
    close_imports,
    hash_files,
    normal_name,
    normal_record,
    parse_requirement,
)
from tacit.evidence.simulated.platform import (
    PLATFORM_FILE,
    PlatformKeys,
    SimulatedPlatform,
    generate_platform,
    parse_platform,
    refresh_platform,
    render_platform,
)
from tacit.evidence.simulated.quote import Enclave, QuotingKeys, issue_quote
from tacit.evidence.simulated.snp import generate_chip, guest, issue_report
from tacit.evidence.simulated.tdx import issue_td_quote, trust_domain
from tacit.evidence.verify.binding import length_prefixed
from tacit.evidence.verify.envelope import wrap

__all__ = [
    "PLATFORM_FILE",
    "Issuer",
    "PackageInfo",
    "SimulatedTee",
    "default_platform_folder",
    "export_platform",
    "import_platform",
    "init_platform",
    "load_inventory",
    "load_package_info",
    "load_simulated_tee",
]

_SEAL_LABEL = b"tacit simulated seal key v1\0"


@dataclass(frozen=True, slots=True)
class _Program:
    product_id: int
    security_version: int
    roots: tuple[str, ...]


# A marble's image holds premain and the server that it becomes, so both are measured.
_PROGRAMS = {
    "coordinator": _Program(1, 1, ("coordinator",)),
    "marble": _Program(2, 1, ("premain", "serve")),
}


# ---- the platform's folder


def default_platform_folder(environ: Mapping[str, str]) -> Path:
    """Where the simulated platform lives: $TACIT_PLATFORM, or `tacit/platform` in the user's data folder.

    Raises:
        PlatformError: the environment names neither that, nor a data folder, nor a home.
    """
    if named := environ.get("TACIT_PLATFORM"):
        return Path(named)
    if data := environ.get("XDG_DATA_HOME"):
        return Path(data) / "tacit" / "platform"
    if home := environ.get("HOME"):
        return Path(home) / ".local" / "share" / "tacit" / "platform"
    raise PlatformError("no folder for the simulated platform: set TACIT_PLATFORM, or HOME")


def init_platform(folder: Path, *, now: datetime) -> None:
    """Make a new simulated platform in a folder that has none.

    Raises:
        PlatformError: there is one already, or the folder cannot be written.
    """
    target = folder / PLATFORM_FILE
    exists = PlatformError(f"{folder} already holds a simulated platform; use it, or name another folder")
    if target.exists():
        raise exists
    _make_folder(folder)
    content = render_platform(generate_platform(now=now, random=secrets.token_bytes))
    try:
        with _temporary(target, content) as temporary:
            os.link(temporary, target)  # unlike a rename, this never replaces what another process just made
    except FileExistsError:
        raise exists from None
    except OSError as exc:
        raise PlatformError(f"the simulated platform cannot be written to {folder}: {exc.strerror}") from exc


def export_platform(folder: Path, file: Path, *, public: bool) -> None:
    """Write the platform of a folder to one file; into a pipe or a device, and through a link to what it names.

    The whole makes another machine this platform too; its public part is for those who shall only verify.

    Raises:
        PlatformError: no platform in the folder, or only its public part where the whole was asked for.
        FileInputError: the file cannot be written.
    """
    platform = _load_platform(folder)
    if not public and platform.keys is None:
        raise PlatformError(f"{folder} holds only the public part of a simulated platform; export with --public")
    content = render_platform(platform.public() if public else platform)
    try:
        if file.exists() and not file.is_file():
            file.write_bytes(content)
        else:
            _store(file.resolve(), content)
    except OSError as exc:
        raise FileInputError(f"{file} cannot be written: {exc.strerror}; name another file") from exc


def import_platform(file: Path, folder: Path, *, replace: bool = False) -> None:
    """Take the platform of an exported file into a folder.

    A public part never pushes out the private part of the same platform that is already there.

    Raises:
        PlatformError: not an exported platform; or the folder holds another one and `replace` was not said.
        FileInputError: the file cannot be read.
    """
    try:
        platform = _parse_file(file)
    except OSError as exc:
        raise FileInputError(f"{file} cannot be read: {exc.strerror}; 'tacit platform export' makes one") from exc
    if (folder / PLATFORM_FILE).exists() and not replace:
        held = _load_platform(folder)
        if held.root != platform.root:
            raise PlatformError(
                f"{folder} already holds another simulated platform; what it sealed and whoever trusts it would be "
                "lost: name another folder, or say --replace"
            )
        if platform.keys is None and held.keys is not None:
            return
        # An export from before a part was made does not take it away.
        platform = platform.with_parts_of(held)
    _make_folder(folder)
    try:
        _store(folder / PLATFORM_FILE, render_platform(platform))
    except OSError as exc:
        raise PlatformError(f"the simulated platform cannot be written to {folder}: {exc.strerror}") from exc


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise PlatformError(f"the folder {folder} cannot be made: {exc.strerror}") from exc


@contextlib.contextmanager
def _temporary(target: Path, content: bytes) -> Iterator[Path]:
    """A file (mode 0600) with this content beside the target; gone afterwards unless it was renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time in this folder: two programs that start together must not make two chips."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _store(target: Path, content: bytes) -> None:
    with _temporary(target, content) as temporary:
        temporary.replace(target)


def _parse_file(file: Path) -> SimulatedPlatform:
    with file.open("rb") as stream:
        return parse_platform(stream.read(MAX_JSON_SIZE + 1), source=str(file))


def _load_platform(folder: Path) -> SimulatedPlatform:
    try:
        return _parse_file(folder / PLATFORM_FILE)
    except FileNotFoundError as exc:
        raise PlatformError(
            f"no simulated platform in {folder}: make one with 'tacit platform init', or bring one with "
            "'tacit platform import FILE'"
        ) from exc
    except OSError as exc:
        raise PlatformError(f"the simulated platform in {folder} cannot be read: {exc.strerror}") from exc


# ---- what a program is


def load_inventory(program: str) -> Inventory:
    """What the measurement of `program` ("coordinator" or "marble") is made of, as it is installed now.

    Raises:
        PlatformError: another program, or one that is not installed.
    """
    roots = [f"{PACKAGE}.programs.{root}" for root in _find_program(program).roots]
    there = [root for root in roots if _find_module(root) is not None]
    if not there:
        raise PlatformError(f"the program '{program}' cannot be measured: {' and '.join(roots)} are not installed")
    modules, foreign = close_imports(there, _find_module)
    distributions, missing = _find_distributions(foreign)
    return Inventory(
        python=f"{python_platform.python_implementation()} {python_platform.python_version()}",
        files=hash_files(modules.values()),
        distributions=distributions,
        missing=missing | (set(roots) - set(there)),
    )


def _find_program(program: str) -> _Program:
    if program not in _PROGRAMS:
        raise PlatformError(f"no program '{program}' can be measured; there are {' and '.join(_PROGRAMS)}")
    return _PROGRAMS[program]


def _find_module(name: str) -> Module | None:
    """A module of ours as its source lies on disk now; what this process has loaded does not matter."""
    base = Path(__file__).parents[1].joinpath(*name.split(".")[1:])
    package = base / "__init__.py"
    try:
        if base.is_dir():
            source = package.read_bytes() if package.is_file() else b""
            return Module(name, source, is_package=True, data=_data_files(base))
        file = base.with_name(f"{base.name}.py")
        return Module(name, file.read_bytes(), is_package=False, data={}) if file.is_file() else None
    except OSError as exc:
        raise PlatformError(f"the module {name} cannot be measured: {exc.strerror}") from exc


def _data_files(package: Path) -> dict[str, bytes]:
    return {
        file.name: file.read_bytes()
        for file in package.iterdir()
        if file.is_file() and file.suffix not in (".py", ".pyc", ".pyi") and not file.name.startswith(".")
    }


def _find_distributions(imported: frozenset[str]) -> tuple[list[Distribution], frozenset[str]]:
    """Distributions that provide these modules, with all they require; and the modules that none provides."""
    records: dict[str, tuple[metadata.Distribution, str]] = {}
    for found in metadata.distributions():
        name = normal_name(found.name)
        # The first on the path is the one that Python would load.
        if name != PACKAGE and name not in records:
            records[name] = found, "\n" + (found.read_text("RECORD") or "")
    waiting, missing = set[str](), set[str]()
    for module in imported:
        if module.split(".")[0] in sys.stdlib_module_names:
            continue
        providers = _find_providers(module, records)
        waiting |= providers
        if not providers:
            missing.add(module.split(".")[0])
    needed: dict[str, Distribution] = {}
    while waiting:
        name = waiting.pop()
        if name in needed or name not in records:
            continue
        found, record = records[name]
        needed[name] = Distribution(name, found.version, sha256(normal_record(record)).digest())
        waiting.update(filter(None, map(parse_requirement, found.requires or ())))
    return sorted(needed.values(), key=lambda one: one.name), frozenset(missing)


def _find_providers(module: str, records: Mapping[str, tuple[metadata.Distribution, str]]) -> set[str]:
    """Names of the distributions that install a module; a namespace package is followed one step inwards."""
    path = ""
    for part in module.split("."):
        path = f"{path}/{part}" if path else part
        # A plain module, a package, or a compiled module (`x.abi3.so`).
        owns = re.compile(rf"\n{re.escape(path)}(\.py,|/__init__\.py|\.[\w-]+\.(so|pyd)|\.(so|pyd))")
        found = {name for name, (_, record) in records.items() if f"\n{path}" in record and owns.search(record)}
        if found:
            return found
    return set()


# ---- the simulated TEE


def load_package_info(folder: Path, *, program: str, tee: Tee = Tee.SIMULATED) -> PackageInfo:
    """What a manifest has to say about a program on this platform; its public part is enough.

    Raises:
        PlatformError: no platform, or no such program.
    """
    return _package_info(_load_enclave(_load_platform(folder), program), tee)


def _package_info(enclave: Enclave, tee: Tee) -> PackageInfo:
    if tee is Tee.SIMULATED:
        return PackageInfo(
            tee, enclave.measurement, enclave.signer, enclave.product_id, enclave.security_version, enclave.debug
        )
    measured = trust_domain(enclave).mr_td if tee is Tee.SIMULATED_TDX else guest(enclave).measurement
    return PackageInfo(tee, measured, b"", 0, 0, debug=False)


def _load_enclave(platform: SimulatedPlatform, program: str) -> Enclave:
    described = _find_program(program)
    return Enclave(
        measurement=load_inventory(program).measurement(),
        signer=platform.signer_id,
        product_id=described.product_id,
        security_version=described.security_version,
    )


class SimulatedTee:
    """A simulated TEE around this process. Protects nothing: whoever reads the platform's folder can do the same.

    `tee` is the kind of simulation: of an SGX enclave, a TD or an SNP guest.
    """

    def __init__(
        self, platform: SimulatedPlatform, keys: PlatformKeys, enclave: Enclave, tee: Tee = Tee.SIMULATED
    ) -> None:
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
        info = _SEAL_LABEL + b"".join(map(length_prefixed, fields))
        return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._keys.seal_secret)


def load_simulated_tee(folder: Path, *, program: str, now: datetime, tee: Tee = Tee.SIMULATED) -> SimulatedTee:
    """The simulated TEE around this process, which says that it is `program` ("coordinator" or "marble").

    Collateral that has less than 30 days left is made anew and stored, if the folder can be written. A chip for SNP is
    made and stored when it is first asked for.

    Raises:
        PlatformError: no platform, only its public part, no such program, or no place for the new chip.
    """
    if not tee.is_simulated:
        raise PlatformError(f"a simulated platform makes no evidence of {tee}; ask for simulated-{tee}")
    platform = _load_platform(folder)
    if platform.keys is None:
        raise PlatformError(
            f"{folder} holds only the public part of a simulated platform, which can verify but not make evidence; "
            "import a whole export of it"
        )
    fresh = refresh_platform(platform, now=now)
    if fresh is not platform:
        # A folder that is mounted read-only keeps its old collateral until its owner refreshes it.
        with contextlib.suppress(OSError):
            _store(folder / PLATFORM_FILE, render_platform(fresh))
    if tee is Tee.SIMULATED_SNP and fresh.snp is None:
        fresh = _add_chip(folder, now)
    return SimulatedTee(fresh, platform.keys, _load_enclave(fresh, program), tee)


def _add_chip(folder: Path, now: datetime) -> SimulatedPlatform:
    """The platform with an SNP chip, stored before anybody sees evidence of it.

    Raises:
        PlatformError: the folder cannot be written.
    """
    try:
        with _locked(folder):
            platform = refresh_platform(_load_platform(folder), now=now)
            if platform.snp is None:
                platform = platform.with_chip(generate_chip(now=now, random=secrets.token_bytes))
                _store(folder / PLATFORM_FILE, render_platform(platform))
            return platform
    except OSError as exc:
        raise PlatformError(f"the simulated SNP chip cannot be written to {folder}: {exc.strerror}") from exc
