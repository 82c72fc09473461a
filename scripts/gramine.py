"""Look at Gramine manifests before an enclave is signed: what the tools of Gramine let pass, and should not be signed.

Usage: python scripts/gramine.py check FILE [--marble MANIFEST]
       python scripts/gramine.py render TEMPLATE [-Dname=value ...]

`check` names each defect by its rule and place, and ends with 1 where there is one. FILE is what gramine-manifest wrote
from a template of deploy/gramine; --marble is the coordinator's manifest that goes with it. `render` prints a template
without Gramine (its folder is a guess then), to be looked at.

Rules: those of Gramine 1.9's syntax, and of what `tacit-coordinator` and `tacit-premain` need inside it. docs/gramine.md
says why for each.
"""

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

RUNTIME = "/usr/lib/x86_64-linux-gnu/gramine/runtime/glibc"
KEYS = "/dev/attestation/keys/"

SIZE = re.compile(r"[1-9][0-9]*[KMG]?")
FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
SMALLEST = {"tacit-coordinator": 512 << 20, "tacit-premain": 2 << 30}  # bytes; below it the programs do not start
# Threads at the same time: pools, main, what looks after collateral or models, and four of Gramine's own.
THREADS = {"tacit-coordinator": 24, "tacit-premain": 32}
HOST_MAY_SAY = {
    "EDG_COORDINATOR_CLIENT_ADDR", "EDG_COORDINATOR_MESH_ADDR", "EDG_COORDINATOR_DNS_NAMES",
    "EDG_COORDINATOR_PROMETHEUS_ADDR", "EDG_MARBLE_TYPE", "EDG_MARBLE_COORDINATOR_ADDR", "EDG_MARBLE_DNS_NAMES",
    "TACIT_COORDINATOR_API", "TACIT_ACTIVATION_TIMEOUT", "TACIT_PCCS", "TACIT_KDS",
}  # fmt: skip
"""Addresses, names and times; nothing that says whom to believe, what to load or how much to tell."""
PRETENCE = {"OE_SIMULATION", "TACIT_UNATTESTED", "TACIT_SIMULATE", "TACIT_PLATFORM", "TACIT_SIMULATE_MACHINE"}

FEATURE = ("unspecified", "disabled", "required")
KNOWN: Mapping[str, Any] = {
    "libos.entrypoint": str, "libos.check_invalid_pointers": bool,
    "loader.entrypoint": dict, "loader.argv": list, "loader.argv_src_file": str, "loader.env": dict,
    "loader.env_src_file": str, "loader.log_level": ("none", "error", "warning", "debug", "trace", "all"),
    "loader.log_file": str, "loader.uid": int, "loader.gid": int, "loader.insecure__use_cmdline_argv": bool,
    "loader.insecure__use_host_env": bool, "loader.insecure__disable_aslr": bool,
    "fs.mounts": list, "fs.root": dict, "fs.start_dir": str, "fs.insecure__keys": dict,
    "sys.stack.size": "size", "sys.brk.max_size": "size", "sys.fds.limit": int,
    "sys.enable_extra_runtime_domain_names_conf": bool, "sys.enable_sigterm_injection": bool,
    "sys.disallow_subprocesses": bool, "sys.insecure__allow_eventfd": bool, "sys.experimental__enable_flock": bool,
    "sys.debug__mock_syscalls": list, "sys.ioctl_structs": dict, "sys.allowed_ioctls": list,
    "sgx.enclave_size": "size", "sgx.max_threads": int, "sgx.edmm_enable": bool, "sgx.preheat_enclave": bool,
    "sgx.remote_attestation": ("none", "dcap"), "sgx.debug": bool, "sgx.isvprodid": int, "sgx.isvsvn": int,
    "sgx.cpu_features.avx": FEATURE, "sgx.cpu_features.avx512": FEATURE, "sgx.cpu_features.amx": FEATURE,
    "sgx.cpu_features.mpx": FEATURE[1:], "sgx.cpu_features.pkru": FEATURE[1:], "sgx.use_exinfo": bool,
    "sgx.trusted_files": list, "sgx.allowed_files": list, "sgx.file_check_policy": ("strict", "allow_all_but_log"),
    "sgx.insecure__rpc_thread_num": int, "sgx.insecure__allow_memfaults_without_exinfo": bool,
    "sgx.seal_key.flags_mask": str, "sgx.seal_key.xfrm_mask": str, "sgx.seal_key.misc_mask": str,
    "sgx.enable_stats": bool, "sgx.profile": dict, "sgx.vtune_profile": bool, "sgx.trusted_files_cache_size": "size",
}  # fmt: skip
GONE = {
    "sgx.thread_num": "sgx.max_threads", "sgx.nonpie_binary": "nothing", "sgx.require_": "sgx.cpu_features",
    "loader.pal_internal_mem_size": "nothing", "fs.mount.": "the list fs.mounts",
    "sgx.protected_files": "a mount of type encrypted", "sgx.insecure__protected_files_key": "fs.insecure__keys",
    "sgx.ra_client_": 'sgx.remote_attestation = "dcap"', "loader.preload": "nothing",
}  # fmt: skip
"""What older versions of Gramine had -> what takes its place."""
TELLING = ("sys.debug__mock_syscalls", "sgx.profile", "sgx.enable_stats", "sgx.vtune_profile")
FIXED = {
    "sgx.debug": (False, "the host reads the memory of a debug enclave"),
    "sgx.remote_attestation": ("dcap", "without quotes no coordinator lets it in"),
    "sgx.file_check_policy": ("strict", "else files that nobody measured are run"),
    "sys.enable_sigterm_injection": (True, "else it can only be killed, and requests are lost"),
    "sys.experimental__enable_flock": (True, "the folders of state and keys are locked"),
    "sys.disallow_subprocesses": (True, "each would be an enclave of the same size, and none is needed"),
}
CODE = ("/usr", "/lib", "/lib64", "/bin", "/opt", "/etc")
NO_CODE = "file:/etc/hosts"
MISSING = object()


class Defect(NamedTuple):
    """What is wrong: by which rule, where, and why."""

    rule: str
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.place}: {self.what}"


class Manifest:
    """A manifest that was read, and what the rules ask of it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.flat = dict(_flatten(content, ""))
        found = self.flat.get("fs.mounts", [])
        self.mounts = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
        env = self.flat.get("loader.env", {})
        self.env: Mapping[str, Any] = env if isinstance(env, dict) else {}
        argv = self.flat.get("loader.argv", [])
        self.argv = [one for one in argv if isinstance(one, str)] if isinstance(argv, list) else []

    def get(self, key: str) -> Any:
        return self.flat.get(key, MISSING)

    @property
    def program(self) -> str:
        return next((Path(one).name for one in self.argv if Path(one).name in SMALLEST), "")

    def value(self, name: str) -> str:
        """A variable's measured value; empty where it has none."""
        entry = self.env.get(name, "")
        entry = entry.get("value", "") if isinstance(entry, dict) else entry
        return entry if isinstance(entry, str) else ""

    def mount_of(self, path: str) -> Mapping[str, Any] | None:
        """The mount on which `path` lies."""
        above = [one for one in self.mounts if lies_in(path, str(one.get("path", "")))]
        return max(above, key=lambda one: len(str(one["path"])), default=None)

    def uri_of(self, path: str) -> str:
        """Where `path` lies on the host; empty for what lies in no file of the host."""
        mount = self.mount_of(path)
        if mount is None or mount.get("type", "chroot") != "chroot":
            return ""
        rest = path.removeprefix(str(mount["path"]))
        return str(mount.get("uri", "")).rstrip("/") + rest

    def files(self, which: str) -> list[str]:
        found = self.flat.get(f"sgx.{which}_files", [])
        entries = found if isinstance(found, list) else []
        return [str(one.get("uri", "")) if isinstance(one, dict) else str(one) for one in entries]


def lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def covered(uri: str, files: list[str]) -> bool:
    return any(uri == one or (one.endswith("/") and f"{uri}/".startswith(one)) for one in files)


def size_of(text: Any) -> int:
    """Bytes; 0 for what is no size."""
    if not isinstance(text, str) or not SIZE.fullmatch(text):
        return 0
    return int(text.rstrip("KMG")) * FACTORS.get(text[-1], 1)


def _flatten(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and KNOWN.get(key) is not dict:
            yield from _flatten(value, f"{key}.")
        else:
            yield key, value


def _fits(value: Any, form: Any) -> bool:
    if isinstance(form, tuple):
        return value in form
    if form == "size":
        return size_of(value) > 0
    return isinstance(value, form) and not (form is int and isinstance(value, bool))


# ---- the rules


def check_keys(m: Manifest) -> Iterator[Defect]:
    for key, value in m.flat.items():
        gone = next((new for old, new in GONE.items() if key.startswith(old)), None)
        if gone is not None:
            yield Defect("gone-key", key, f"Gramine 1.9 does not know it any more; {gone} takes its place")
        elif key == "loader.entrypoint" and not isinstance(value, dict):
            yield Defect("gone-key", key, "a text is refused since 1.9; leave it out, gramine-manifest fills it in")
        elif key not in KNOWN:
            yield Defect("unknown-key", key, "Gramine refuses keys that it does not know")
        elif not _fits(value, KNOWN[key]):
            yield Defect("value", key, f"{value!r} is not of its kind ({KNOWN[key]})")
    for key in ("libos.entrypoint", "fs.mounts"):
        if key not in m.flat:
            yield Defect("missing-key", key, "Gramine does not start without it")


def check_fixed(m: Manifest) -> Iterator[Defect]:
    for key, (wanted, why) in FIXED.items():
        # Gramine's own defaults are not relied on: what is signed says what it is.
        if m.get(key) != wanted:
            yield Defect("fixed", key, f"has to be {json.dumps(wanted)}: {why}")
    if m.get("loader.log_level") not in ("none", "error"):
        yield Defect("log-level", "loader.log_level", "above error Gramine's log tells what the program does")


def check_insecure(m: Manifest) -> Iterator[Defect]:
    for key, value in m.flat.items():
        if ("insecure__" in key and value not in (False, 0)) or (key in TELLING and value):
            yield Defect("insecure", key, "for trying things out; not in what is signed for use")


def check_argv(m: Manifest) -> Iterator[Defect]:
    argv = m.get("loader.argv")
    if not isinstance(argv, list) or not argv or len(m.argv) != len(argv):
        yield Defect("argv", "loader.argv", "has to be a list of texts, the program's own name first: it is measured")
    elif m.argv[0] != m.get("libos.entrypoint"):
        yield Defect("argv", "loader.argv", "its first text has to be libos.entrypoint, where Python looks for itself")
    elif m.argv[1:2] != ["-I"]:
        yield Defect(
            "argv", "loader.argv", "Python has to be told -I: it takes nothing from its environment and folder then"
        )
    elif not m.program:
        yield Defect("argv", "loader.argv", f"starts none of {', '.join(SMALLEST)}")
    elif m.program == "tacit-premain" and Path(m.argv[-1]).name != m.program:
        yield Defect("argv", "loader.argv", "a command behind tacit-premain is the coordinator's manifest's choice")
    if "loader.argv_src_file" in m.flat:
        yield Defect("argv", "loader.argv_src_file", "beside loader.argv there is no place for another source")


def check_env(m: Manifest) -> Iterator[Defect]:
    if "loader.env_src_file" in m.flat:
        yield Defect("env", "loader.env_src_file", "what is passed has to be readable in the manifest")
    for name, entry in m.env.items():
        place = f"loader.env.{name}"
        if name in PRETENCE:
            yield Defect("pretence", place, "in a real TEE it ends the program")
        elif isinstance(entry, dict) and set(entry) == {"passthrough"}:
            if entry["passthrough"] is not True:
                yield Defect("env", place, "Gramine refuses passthrough = false; leave the line out")
            elif name not in HOST_MAY_SAY:
                yield Defect("passthrough", place, "the host would choose it; give a value, which is measured")
        elif not isinstance(entry, str) and not (isinstance(entry, dict) and set(entry) == {"value"}):
            yield Defect("env", place, "is neither a text, nor { value = ... }, nor { passthrough = true }")
    if m.value("MALLOC_ARENA_MAX") != "1":
        yield Defect(
            "env", "loader.env.MALLOC_ARENA_MAX", "has to be 1: each thread's arena takes 64 MiB of the enclave"
        )


def check_sizes(m: Manifest) -> Iterator[Defect]:
    size, stack = size_of(m.get("sgx.enclave_size")), size_of(m.get("sys.stack.size"))
    threads, limit = m.get("sgx.max_threads"), m.get("sys.fds.limit")
    if size & (size - 1) or size < SMALLEST.get(m.program, 1):
        least = SMALLEST.get(m.program, 1) >> 20
        yield Defect("enclave-size", "sgx.enclave_size", f"has to be a power of two, and at least {least}M")
    if not isinstance(threads, int) or threads < THREADS.get(m.program, 1):
        yield Defect(
            "threads", "sgx.max_threads", f"has to be at least {THREADS.get(m.program, 1)}; more end the program"
        )
    elif stack < FACTORS["M"] * 2:
        yield Defect("stack", "sys.stack.size", "has to be at least 2M for Python")
    elif threads * stack * 2 > size:
        yield Defect("enclave-size", "sgx.enclave_size", "half of it would be stacks; fewer threads, or more of it")
    if isinstance(limit, int) and not 1024 <= limit <= 65536:
        yield Defect(
            "fds", "sys.fds.limit", "has to lie between 1024 (each connection is one) and 65536, Gramine's own"
        )
    if (m.get("sgx.edmm_enable") is True) == (m.get("sgx.preheat_enclave") is True):
        yield Defect(
            "edmm", "sgx.edmm_enable", "either this or sgx.preheat_enclave: memory on demand, or all of it before"
        )


def check_identity(m: Manifest) -> Iterator[Defect]:
    for key in ("sgx.isvprodid", "sgx.isvsvn"):
        value = m.get(key)
        if not isinstance(value, int) or not 1 <= value < 1 << 16:
            yield Defect("identity", key, "has to be given, from 1 to 65535: packages tell programs and versions by it")
    for name in ("flags", "xfrm", "misc"):
        mask = m.get(f"sgx.seal_key.{name}_mask")
        if mask is not MISSING and not re.fullmatch(r"0x[0-9a-f]{8}([0-9a-f]{8})?", str(mask)):
            yield Defect("identity", f"sgx.seal_key.{name}_mask", "is no mask of 32 or 64 bits in hex")


FIELDS = {
    "chroot": {"type", "path", "uri"},
    "encrypted": {"type", "path", "uri", "key_name", "enable_recovery"},
    "tmpfs": {"type", "path"},
}


def check_mounts(m: Manifest) -> Iterator[Defect]:
    if "fs.root" in m.flat:
        yield Defect("mount", "fs.root", "everything of the host would be there; mount what is needed")
    for mount in m.mounts:
        kind, path, uri = mount.get("type", "chroot"), str(mount.get("path", "")), str(mount.get("uri", ""))
        place = f"fs.mounts {path}"
        if kind not in FIELDS:
            yield Defect("mount", place, f"type {kind!r}; memory that is shared with the host, or none of Gramine's")
            continue
        if unknown := set(mount) - FIELDS[kind]:
            yield Defect("mount", place, f"has no {', '.join(sorted(unknown))} as {kind}")
        if not path.startswith("/") or (kind != "tmpfs" and not uri.startswith("file:/")):
            yield Defect("mount", place, "both sides have to be absolute: encrypted files name the host's path")
        if path == "/" or uri in ("file:/", "file:///"):
            yield Defect("mount", place, "everything of the host would be there; mount what is needed")
        if lies_in(path, "/dev/attestation") or lies_in("/dev/attestation", path):
            yield Defect("mount", place, "it would stand before Gramine's own files for attestation")


def check_encrypted(m: Manifest) -> Iterator[Defect]:
    mounts = [one for one in m.mounts if one.get("type") == "encrypted"]
    for number, mount in enumerate(mounts):
        place, key, uri = f"fs.mounts {mount.get('path')}", mount.get("key_name", "default"), str(mount.get("uri"))
        own = str(key).startswith("_sgx_")
        if key == "default" or not re.fullmatch(r"_sgx_mr(signer|enclave)|[a-z][a-z0-9_-]*", str(key)):
            yield Defect("key-name", place, "needs a key of its own by name")
        if own and mount.get("enable_recovery") is not True:
            yield Defect(
                "recovery", place, "needs enable_recovery = true: it is written, and a cut write loses the file"
            )
        if covered(uri, m.files("trusted") + m.files("allowed")):
            yield Defect(
                "files", place, "an encrypted mount is neither trusted nor allowed: its host's bytes would pass"
            )
        for other in mounts[number + 1 :]:
            if lies_in(uri, str(other.get("uri"))) or lies_in(str(other.get("uri")), uri):
                yield Defect("mount", place, f"and {other.get('path')} are the same files of the host")
        if not own:
            yield from _touched_early(m, str(mount.get("path")))


def _touched_early(m: Manifest, folder: str) -> Iterator[Defect]:
    """What is looked at before activation has placed the key; such a file stays closed for the enclave's life."""
    named = {f"loader.env.{name}": m.value(name) for name in m.env}
    named |= {"loader.argv": ":".join(m.argv), "fs.start_dir": str(m.flat.get("fs.start_dir", ""))}
    named |= {f"fs.mounts {one.get('path')}": str(one.get("path")) for one in m.mounts if one.get("path") != folder}
    for place, paths in named.items():
        if any(lies_in(path, folder) for path in paths.split(":")):
            yield Defect("key-order", place, f"touches {folder} before its key is there")


def check_files(m: Manifest) -> Iterator[Defect]:
    trusted, allowed = m.files("trusted"), m.files("allowed")
    for uri in (*trusted, *allowed):
        if not uri.startswith("file:/") or uri in ("file:/", "file:///"):
            yield Defect("files", uri, "has to be file: and an absolute path, not everything")
        if uri in trusted and covered(uri, allowed):
            yield Defect("files", uri, "is trusted and allowed; allowed is what the host may change")
        elif uri in allowed and uri != NO_CODE and any(lies_in(uri.removeprefix("file:"), one) for one in CODE):
            yield Defect("files", uri, "programs and what they believe lie there: trusted, or not at all")
    for mount in m.mounts:
        uri = str(mount.get("uri", ""))
        if mount.get("type", "chroot") == "chroot" and not covered(uri, trusted + allowed):
            yield Defect(
                "files", f"fs.mounts {mount.get('path')}", "nothing below it is trusted or allowed, so nothing opens"
            )
    run = [str(m.flat.get("libos.entrypoint", "")), *(one for one in m.argv if one.startswith("/"))]
    # Of a folder whose URI lacks the last slash nothing is measured.
    run += [f"{one}/." for one in m.value("LD_LIBRARY_PATH").split(":") if one]
    run += [m.value("TACIT_COORDINATOR_PACKAGE"), m.value("SSL_CERT_FILE")]
    for path in filter(None, run):
        if not covered(m.uri_of(path), trusted):
            yield Defect(
                "measured", path, "is run or believed, and nothing measures it: it belongs into sgx.trusted_files"
            )


def check_places(m: Manifest) -> Iterator[Defect]:
    for path in {"/tmp", "/dev/shm", *filter(None, map(m.value, ("TMPDIR", "HOME", "TACIT_MEMORY_DIR")))}:
        if (m.mount_of(path) or {}).get("type") != "tmpfs":
            yield Defect("memory", path, "plaintext lies there: it has to be a tmpfs")
    if m.program == "tacit-premain":
        if not m.value("TACIT_COORDINATOR_PACKAGE"):
            yield Defect("measured", "loader.env.TACIT_COORDINATOR_PACKAGE", "premain obeys no coordinator without it")
        if (m.mount_of(m.value("TACIT_TRUST_DIR")) or {}).get("type") != "encrypted":
            yield Defect(
                "trust", "loader.env.TACIT_TRUST_DIR", "has to lie on an encrypted mount: the host would edit it"
            )
    if m.program == "tacit-coordinator" and not covered(
        m.uri_of(m.value("EDG_COORDINATOR_SEAL_DIR")), m.files("allowed")
    ):
        yield Defect(
            "state", "loader.env.EDG_COORDINATOR_SEAL_DIR", "has to lie in an allowed folder: it is written, and kept"
        )


RULES: tuple[Callable[[Manifest], Iterator[Defect]], ...] = (
    check_keys, check_fixed, check_insecure, check_argv, check_env, check_sizes, check_identity, check_mounts,
    check_encrypted, check_files, check_places,
)  # fmt: skip


def check(text: str) -> list[Defect]:
    """Every defect of a manifest."""
    try:
        manifest = Manifest(tomllib.loads(text))
    except tomllib.TOMLDecodeError as exc:
        return [Defect("syntax", "TOML", str(exc))]
    return [defect for rule in RULES for defect in rule(manifest)]


def check_together(text: str, marbles: str) -> list[Defect]:
    """What does not fit between the server's manifest and the coordinator's that goes with it."""
    manifest, defects = Manifest(tomllib.loads(text)), []
    placed: set[str] = set()
    for name, marble in json.loads(marbles).get("Marbles", {}).items():
        given = marble.get("Parameters", {})
        placed |= {path.removeprefix(KEYS) for path in given.get("Files", {}) if path.startswith(KEYS)}
        for variable in ("LD_LIBRARY_PATH", "MALLOC_ARENA_MAX"):
            if given.get("Env", {}).get(variable) != manifest.value(variable):
                what = f"has to be {manifest.value(variable)!r}, as in loader.env: the server starts from an empty one"
                defects.append(Defect("server-env", f"Marbles.{name}.Parameters.Env.{variable}", what))
    keys = {one["key_name"] for one in manifest.mounts if one.get("type") == "encrypted" and "key_name" in one}
    for key in sorted(one for one in keys if not one.startswith("_sgx_")):
        if key not in placed:
            defects.append(
                Defect("key-placed", f"{KEYS}{key}", "no marble has it among its Files, so the mount never opens")
            )
    for key in sorted(placed - keys):
        defects.append(Defect("key-placed", f"{KEYS}{key}", "no mount has that key_name, so Gramine refuses the file"))
    return defects


class _Gramine:
    """What templates ask of Gramine."""

    @staticmethod
    def runtimedir() -> str:
        return RUNTIME


def render(template: str, **variables: str) -> str:
    """A template's text as gramine-manifest makes it, but for the folder of Gramine itself."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(template).render(gramine=_Gramine, **variables)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    checking = verbs.add_parser("check")
    checking.add_argument("file", type=Path)
    checking.add_argument("--marble", type=Path)
    rendering = verbs.add_parser("render")
    rendering.add_argument("template", type=Path)
    rendering.add_argument("-D", action="append", default=[], metavar="name=value", dest="variables")
    given = parser.parse_args()
    for file in (getattr(given, name, None) for name in ("file", "template", "marble")):
        if file is not None and not file.is_file():
            parser.error(f"there is no file {file}")
    wrong = [one for one in getattr(given, "variables", ()) if "=" not in one]
    if wrong:
        parser.error(f"-D {wrong[0]}: expected name=value")
    if given.verb == "render":
        print(render(given.template.read_text(), **dict(one.split("=", 1) for one in given.variables)), end="")
        return 0
    text = given.file.read_text()
    defects = check(text)
    if given.marble and not defects:
        defects = check_together(text, given.marble.read_text())
    for defect in defects:
        print(f"Error: {defect}", file=sys.stderr)
    if not defects:
        print(f"{given.file}: nothing to object to")
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())
