"""Build the images, with buildah: `python deploy/images/build.py [--out FOLDER] [NAME...]`.

The same inputs give the same digests: the base archive, the lock files, our own package, and SOURCE_DATE_EPOCH.

1. The base archive: made by base.sh and kept, or the one that --base names.
2. Our package as a wheel; the wheels of each image's lock file, checked by their hashes, and kept.
3. For each image a folder: libraries, the rooms that its program may load, its bill of materials. buildah makes the image.
4. What each image's program measures as on the simulated platform, for manifests and for `tacit trust --package`.

FOLDER then holds images.tar (every image, for `docker load`, `podman load`, `ctr images import`), digests.json, and for
each image NAME.sbom.json and, where it is measured, NAME.package.json. What was built before is not built again.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from contents import install_libraries, place_program, unpack_wheel

import tacit

try:
    from sbom import load_wheels, render_sbom
except ModuleNotFoundError as exc:
    sys.exit(f"Error: no {exc.name} in this Python; `make images` installs what building needs, and builds")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
VERSION = os.environ.get("TACIT_IMAGE_TAG") or tacit.__version__
# The time that stands at every file and image; it says nothing, so that it changes nothing.
_GIVEN_EPOCH = os.environ.get("SOURCE_DATE_EPOCH") or "1767225600"
if not (_GIVEN_EPOCH.isascii() and _GIVEN_EPOCH.isdigit()):
    sys.exit(f'Error: SOURCE_DATE_EPOCH is "{_GIVEN_EPOCH}"; expected seconds since 1970')
EPOCH = int(_GIVEN_EPOCH)
_MEASURE = "from tacit.evidence.issue.program import load_inventory as l; print(l({!r}).measurement().hex())"


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its programs, the composition roots whose rooms it holds (None: all), and what it is measured as."""

    name: str
    programs: Mapping[str, str]
    rooms: Sequence[str] | None
    measured: str | None = None
    extra_files: Sequence[str] = field(default=())

    @property
    def reference(self) -> str:
        """Name and tag."""
        return f"localhost/{self.name}:{VERSION}"

    @property
    def recipe(self) -> str:
        """What its Dockerfile and lock file are called by."""
        return "server" if self.name == "tacit-serve" else self.name.removeprefix("tacit-")


def _program(name: str) -> str:
    return f"tacit.programs.{name}"


IMAGES = (
    Image("tacit-coordinator", {"tacit-coordinator": _program("coordinator")}, ("coordinator",), "coordinator"),
    Image(
        "tacit-serve",
        {"tacit-premain": _program("premain"), "tacit-serve": _program("serve")},
        ("premain", "serve"),
        "marble",
    ),
    Image("tacit-premain", {"tacit-premain": _program("premain")}, ("premain",), "marble"),
    Image("tacit-injector", {"tacit-injector": _program("injector")}, ("injector",)),
    Image("tacit-cli", {"tacit": _program("tacit")}, None, extra_files=("busybox",)),
)


def runroot(cache: Path) -> Path:
    """Where the state of containers is until the machine starts anew; podman takes no path of more than 50 characters."""
    return Path("/run/tacit-images") / hashlib.sha256(str(cache.resolve()).encode()).hexdigest()[:8]


class Builder:
    """The folders of one build."""

    def __init__(self, cache: Path, out: Path, base: Path | None) -> None:
        self.cache = cache
        self.out = out
        self._given_base = base
        self._buildah = (
            "buildah", "--root", str(cache / "storage"), "--runroot", str(runroot(cache)), "--storage-driver", "overlay",
        )  # fmt: skip

    # ---- inputs

    def base(self) -> Path:
        """(1) The folder with base.tar and busybox."""
        if self._given_base is not None:
            return self._given_base
        folder = self.cache / f"base-{_digest((HERE / 'base.sh').read_bytes(), str(EPOCH).encode())}"
        if not (folder / "base.tar").exists():
            environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
            subprocess.run([str(HERE / "base.sh"), str(folder)], check=True, env=environment)
        return folder

    def wheel(self, work: Path) -> Path:
        """(2) Our package, unpacked."""
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(work / "dist"),
            str(ROOT),
        ]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            sys.exit(f"Error: the wheel of tacit cannot be built:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        unpack_wheel(next((work / "dist").glob("*.whl")), work / "wheel")
        return work / "wheel"

    def libraries(self, image: Image) -> Path:
        """(2) The wheels of an image, unpacked."""
        lock = ROOT / "lock" / f"image-{image.recipe}.txt"
        target = self.cache / "libraries" / _digest(lock.read_bytes(), (HERE / "contents.py").read_bytes())
        if not target.exists():
            install_libraries(lock, target, machine=platform.machine())
        return target

    # ---- images

    def buildah(self, *arguments: str) -> str:
        """Run buildah on this build's own storage."""
        done = subprocess.run([*self._buildah, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"Error: buildah {' '.join(arguments[:3])}: {done.stderr.strip()[-2000:]}")
        return done.stdout.strip()

    def build_base(self, base: Path) -> str:
        """The image under all others: its name, after what is in it."""
        name = (
            f"localhost/tacit-base:{_digest((base / 'base.tar').read_bytes(), (HERE / 'base.Dockerfile').read_bytes())}"
        )
        if not self.buildah("images", "--format", "{{.ID}}", "--filter", f"reference={name}"):
            self._bud(name, HERE / "base.Dockerfile", base)
        return name

    def _bud(self, name: str, recipe: Path, context: Path, *more: str) -> None:
        self.buildah(
            "bud", "--isolation", "chroot", "--pull-never", "--timestamp", str(EPOCH), "--format", "oci",
            "--identity-label=false", *more, "--tag", name, "--file", str(recipe), str(context),
        )  # fmt: skip

    def build(self, image: Image, base: Path, base_name: str, wheel: Path, work: Path) -> None:
        """(3) One image."""
        context = work / image.name
        context.mkdir()
        libraries = self.libraries(image)
        # By hard links: the wheels stay where they are kept.
        shutil.copytree(libraries, context / "libraries", copy_function=os.link)
        place_program(wheel, context / "program", programs=image.programs, rooms=image.rooms)
        text = render_sbom(
            image.name,
            version=VERSION,
            debian=_debian_packages(base / "base.tar"),
            wheels=load_wheels(libraries.with_suffix(".json")),
            epoch=EPOCH,
        )
        document = context / "program" / "usr" / "share" / "sbom" / f"{image.name}.cdx.json"
        document.parent.mkdir(parents=True)
        document.write_text(text)
        (self.out / f"{image.name}.sbom.json").write_text(text)
        for name in image.extra_files:
            shutil.copyfile(base / name, context / name)
            (context / name).chmod(0o755)
        recipe = HERE / f"{image.recipe}.Dockerfile"
        self._bud(image.reference, recipe, context, "--build-arg", f"BASE={base_name}")

    def measure(self, image: Image) -> None:
        """(4) What the image shows as evidence on the simulated platform, written as a package of a manifest."""
        if image.measured is None:
            return
        container = self.buildah("from", "--pull-never", image.reference)
        try:
            command = ["/usr/bin/python3.11", "-I", "-c", _MEASURE.format(image.measured)]
            digest = self.buildah("run", "--isolation", "chroot", container, "--", *command)
        finally:
            self.buildah("rm", container)
        package = {"TEE": "simulated", "UniqueID": digest}
        (self.out / f"{image.name}.package.json").write_text(json.dumps(package) + "\n")

    def digest(self, image: Image) -> str:
        """The digest that a registry will name the image by."""
        return self.buildah("images", "--format", "{{.Digest}}", "--filter", f"reference={image.reference}")

    def save(self, images: Sequence[Image]) -> None:
        """One archive of all, in which the layers that they share stand once."""
        archive = self.out / "images.tar"
        archive.unlink(missing_ok=True)
        podman = ["podman", *self._buildah[1:]]
        command = [*podman, "save", "--quiet", "--multi-image-archive", "--output", str(archive)]
        done = subprocess.run(
            [*command, *(one.reference for one in images)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"Error: podman save: {done.stderr.strip()[-2000:]}")


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]


def _debian_packages(archive: Path) -> list[str]:
    with tarfile.open(archive) as base:
        members = sorted((one for one in base if "/dpkg/status.d/" in one.name), key=lambda one: one.name)
        return [stream.read().decode() for one in members if (stream := base.extractfile(one))]


def _inputs(base: Path, wheel: Path, images: Sequence[Image]) -> str:
    files = [*HERE.glob("*.py"), *HERE.glob("*.Dockerfile"), *(ROOT / "lock").glob("image-*.txt")]
    files += [one for one in wheel.rglob("*") if one.is_file()]
    parts = [one.name.encode() + one.read_bytes() for one in sorted(files)]
    names = " ".join(one.reference for one in images)
    return _digest(*parts, (base / "base.tar").read_bytes(), f"{names} {EPOCH}".encode())


@contextmanager
def _work(cache: Path) -> Iterator[Path]:
    """A folder on the cache's file system, so that hard links work."""
    folder = cache / f"work-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def build_all(builder: Builder, images: Sequence[Image]) -> Mapping[str, str]:
    """Every image that is wanted, unless these very ones were built before: their digests by name."""
    with _work(builder.cache) as work:
        base, wheel = builder.base(), builder.wheel(work)
        inputs = _inputs(base, wheel, images)
        record = builder.out / "digests.json"
        if record.exists() and (known := json.loads(record.read_text()))["inputs"] == inputs:
            return dict(known["images"])
        builder.out.mkdir(parents=True, exist_ok=True)
        base_name = builder.build_base(base)
        for image in images:
            started = time.monotonic()
            builder.build(image, base, base_name, wheel, work)
            builder.measure(image)
            print(f"{image.reference} ({time.monotonic() - started:.0f} s)", flush=True)
        builder.save(images)
        digests = {one.reference: builder.digest(one) for one in images}
        record.write_text(json.dumps({"inputs": inputs, "images": digests}, indent=1) + "\n")
        return digests


def main() -> None:
    """Build, and print each image's digest."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tacit-images"
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(one.name for one in IMAGES)}; default: all"
    )
    parser.add_argument("--out", type=Path, default=None, help=f"default: {cache}/out")
    parser.add_argument("--cache", type=Path, default=cache, help="what is kept between builds")
    parser.add_argument("--base", type=Path, default=None, help="folder with a base.tar (and busybox) made elsewhere")
    options = parser.parse_args()
    unknown = set(options.names) - {one.name for one in IMAGES}
    if unknown:
        sys.exit(f"Error: no image {', '.join(sorted(unknown))}; there are {', '.join(one.name for one in IMAGES)}")
    if options.base is not None and not (options.base / "base.tar").is_file():
        sys.exit(
            f"Error: there is no base.tar in {options.base}, which --base names; make one with deploy/images/base.sh"
        )
    for program in ("buildah", "podman"):
        if shutil.which(program) is None:
            sys.exit(f"Error: no {program}; apt-get install --no-install-recommends buildah podman runc")
    images = [one for one in IMAGES if not options.names or one.name in options.names]
    builder = Builder(options.cache, options.out or options.cache / "out", options.base)
    for name, digest in build_all(builder, images).items():
        print(f"{name} {digest}")
    print(f"archive: {builder.out / 'images.tar'}")


if __name__ == "__main__":
    main()
