"""What lies in an image beside Debian: the wheels of a lock file, and of our own package what the program may load."""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

from tacit.evidence.simulated.measure import Module, close_imports

PYTHON = "3.11"
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
# Where each wheel may have been built for: an image is Debian 12 (glibc 2.36).
_GLIBC = ("2_36", "2_34", "2_31", "2_28", "2_26", "2_24", "2_17", "2_5")
# Left out of wheels, with the reason: none of it can run in an image, or is for people who build on the library.
LEFT_OUT = (
    "openvino/libs/libopenvino_intel_gpu_plugin.so",  # devices that a TEE does not have
    "openvino/libs/libopenvino_intel_npu_plugin.so",
    "openvino/libs/cache.json",  # the GPU's kernels
    "openvino/libs/libopenvino_paddle_frontend.so.*",  # formats that no manifest names
    "openvino/libs/libopenvino_pytorch_frontend.so.*",
    "openvino/libs/libopenvino_jax_frontend.so.*",
    "openvino/libs/libopenvino_gguf_frontend.so.*",
    "openvino/include",  # for compilers
    "openvino/cmake",
    "numpy/_core/include",
    "numpy/f2py",
    "numpy/**/tests",
    "*.pyi",
    "bin",  # programs with the builder's Python in their first line
)


def target_environment(machine: str) -> Mapping[str, str]:
    """The values of environment markers in an image."""
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{PYTHON}.2",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{PYTHON}.2",
        "python_version": PYTHON,
        "sys_platform": "linux",
        "extra": "",
    }


def select_requirements(lock: str, environment: Mapping[str, str]) -> dict[str, list[str]]:
    """What a lock file names for this environment: `name==version` and its hashes."""
    selected: dict[str, list[str]] = {}
    for line in lock.replace("\\\n", " ").splitlines():
        text = line.partition(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        requirement, *hashes = text.split("--hash=")
        parsed = Requirement(requirement.strip())
        if parsed.marker is None or parsed.marker.evaluate(dict(environment)):
            selected[f"{parsed.name}{parsed.specifier}"] = [each.strip() for each in hashes]
    return selected


def install_libraries(lock: Path, target: Path, *, machine: str) -> None:
    """Unpack the wheels of a lock file, each checked by its hash, as an image has them; beside them, which they were."""
    selected = select_requirements(lock.read_text(), target_environment(machine))
    wanted = target.with_suffix(".txt")
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_text(
        "".join(f"{name} {' '.join(f'--hash={one}' for one in hashes)}\n" for name, hashes in selected.items())
    )
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in _GLIBC]
    platforms += [f"--platform=manylinux2014_{machine}", f"--platform=linux_{machine}"]
    subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-compile",
            "--require-hashes", "--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms,
            f"--target={part}", f"--report={target.with_suffix('.json')}", "-r", str(wanted),
        ],
        check=True,
    )  # fmt: skip
    for pattern in LEFT_OUT:
        for path in sorted(part.rglob(pattern) if pattern.startswith("*") else part.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for installed in part.glob("*.dist-info"):
        for noise in ("INSTALLER", "REQUESTED", "direct_url.json"):
            (installed / noise).unlink(missing_ok=True)
    part.rename(target)


def unpack_wheel(wheel: Path, target: Path) -> None:
    """Our own package as it is published."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)


def close_rooms(package: Path, roots: Sequence[str]) -> set[Path]:
    """The files of our package that a program may load, which starts from these modules of `tacit.programs`."""

    def find(name: str) -> Module | None:
        place = package.joinpath(*name.split(".")[1:])
        if place.is_dir():
            source = place / "__init__.py"
            return Module(name, source.read_bytes() if source.is_file() else b"", is_package=True, data={})
        file = place.with_name(f"{place.name}.py")
        return Module(name, file.read_bytes(), is_package=False, data={}) if file.is_file() else None

    modules, _ = close_imports([f"tacit.programs.{root}" for root in roots], find)
    files: set[Path] = set()
    for name, module in modules.items():
        place = package.joinpath(*name.split(".")[1:])
        # With a package goes what it holds beside modules: a measurement counts that too.
        inside = [one for one in place.iterdir() if one.is_file()] if module.is_package else []
        files |= {one for one in inside if one.suffix != ".py" or one.stem == "__init__"}
        files |= set() if module.is_package else {place.with_name(f"{place.name}.py")}
    return files


def place_program(unpacked: Path, root: Path, *, programs: Mapping[str, str], rooms: Sequence[str] | None) -> None:
    """Our package and its programs into an image's `root`; of the package what `rooms` may load, or all of it."""
    site = root / SITE
    package = unpacked / "tacit"
    files = set(package.rglob("*")) if rooms is None else close_rooms(package, rooms)
    about = next(unpacked.glob("tacit-*.dist-info"))
    files |= {about / "METADATA", about / "WHEEL", *about.rglob("LICENSE")}
    rows = []
    for file in sorted(one for one in files if one.is_file()):
        name = file.relative_to(unpacked)
        target = site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        digest = urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).decode().rstrip("=")
        rows.append(f"{name.as_posix()},sha256={digest},{file.stat().st_size}\n")
    (site / about.name / "RECORD").write_text("".join(rows) + f"{about.name}/RECORD,,\n")
    for name, module in programs.items():
        script = root / "usr" / "bin" / name
        script.parent.mkdir(parents=True, exist_ok=True)
        # -I: neither the environment nor the working folder brings modules in.
        script.write_text(
            f"#!/usr/bin/python{PYTHON} -I\nimport sys\n\nfrom {module} import main\n\nsys.exit(main())\n"
        )
        script.chmod(0o755)
