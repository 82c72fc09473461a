"""Bring an encrypted model to the volume that servers on a cluster read it from, through a pod that has the volume.

1. The file's SHA-256 names the part that is written: another file never goes on where this one stopped.
2. What is there of that part already is not sent again.
3. The pod appends what comes, as much as was announced.
4. The pod computes the SHA-256 of the whole; only if it is the file's own does the part get the file's name. So a server
   never sees half a model.
"""

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shlex import quote

from tacit.cli.model.encrypt import MAX_MODEL, naming
from tacit.cli.model.files import file_size
from tacit.cli.model.progress import Advance
from tacit.errors import ClusterAccessError, ClusterError, FileInputError, InputError
from tacit.kube.objects import POD, Cluster, Object
from tacit.vault.files import read_capsule_header

PIECE = 1 << 20  # bytes that the pod has written before more is sent
ATTEMPTS = 5  # connections that may break off before the command gives up
PAUSE = 1.0  # seconds between them
_NAME_KEPT = 50  # characters of a name in that of its part, which must not grow longer than 255 bytes
_NOTHING = 127  # exit code of a shell that does not find its program


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was brought: where it lies, its size and hash, and how many bytes were there already."""

    path: PurePosixPath
    size: int
    sha256: str
    resumed: int


async def push(cluster: Cluster, file: Path, pod: Object, folder: PurePosixPath, *, progress: Advance) -> Pushed:
    """Copy a file into a folder of a pod, verified.

    Raises:
        FileInputError: the file cannot be read.
        ClusterError: the pod cannot write there, or what arrived is not what was sent.
        ClusterAccessError: the connection broke off again and again.
    """
    size, digest = _measure(file)
    target = folder / file.name
    part = folder / f".{file.name[:_NAME_KEPT]}.{digest[:16]}.part"
    if await _digest_of(cluster, pod, target) == digest:
        progress(size, size)
        return Pushed(target, size, digest, size)
    resumed = await _transfer(cluster, file, pod, part, size=size, progress=progress)
    arrived = await _digest_of(cluster, pod, part)
    if arrived != digest:
        await _run(cluster, pod, f"rm -f {quote(str(part))}")
        raise ClusterError(
            f"what arrived in the pod has SHA-256 {arrived or 'none'}, and {file} has {digest}; it was removed. Did the file "
            "change meanwhile, or did another push write it? Run the same command again"
        )
    await _run(cluster, pod, f"mv -f {quote(str(part))} {quote(str(target))}")
    return Pushed(target, size, digest, resumed)


def check_pushed(file: Path, *, plaintext: bool) -> None:
    """Refuse what is no file, and a capsule that is none, before a cluster is asked for anything.

    A plain model by a capsule's name would be read by whoever runs the cluster, and one that was cut opens nowhere.
    Raises: FileInputError, CapsuleFormatError.
    """
    file_size(file, what="an encrypted model", largest=MAX_MODEL)
    if file.suffix == ".capsule" and not plaintext:
        with naming(file):
            read_capsule_header(file)


async def find_storage(cluster: Cluster, name: str, namespace: str) -> Object:
    """The pod to write through, running. Raises: InputError, ClusterError."""
    pod = await cluster.get(POD, name, namespace=namespace)
    advice = "the chart tacit-serve makes it (storage.pod.enabled); name another with --pod"
    if pod is None:
        raise InputError(f"there is no pod {name} in the namespace {namespace}; {advice}")
    phase = str((pod.get("status") or {}).get("phase"))
    if phase != "Running":
        raise ClusterError(f"the pod {namespace}/{name} is {phase} and not Running; kubectl describes why")
    return pod


def _measure(file: Path) -> tuple[int, str]:
    try:
        with file.open("rb") as stream:
            return file.stat().st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as exc:
        raise FileInputError(f"{file} cannot be read: {exc.strerror}") from exc


async def _transfer(
    cluster: Cluster, file: Path, pod: Object, part: PurePosixPath, *, size: int, progress: Advance
) -> int:
    """(2, 3) Send what is missing, again where the connection breaks off; the bytes that were there before."""
    before, attempt = await _size_of(cluster, pod, part), 0
    there = before if before <= size else 0
    if there != before:
        await _run(cluster, pod, f"rm -f {quote(str(part))}")
    first = there
    while there < size or not size:
        attempt += 1
        try:
            if attempt > 1:
                there = min(await _size_of(cluster, pod, part), size)
                if there == size:
                    break
            script = _receiver(part, size - there)
            await _run(cluster, pod, script, _pieces(file, there, size, progress))
            return first
        except ClusterAccessError:
            if attempt == ATTEMPTS:
                raise
            await asyncio.sleep(PAUSE)
    return first


def _receiver(part: PurePosixPath, missing: int) -> str:
    """What the pod runs: it appends a piece, says so, and takes the next."""
    name, whole, rest = quote(str(part)), *divmod(missing, PIECE)
    take = f"head -c %d >> {name} && echo || exit 1"
    loop = f"i=0; while [ $i -lt {whole} ]; do {take % PIECE}; i=$((i+1)); done" if whole else f": >> {name}"
    return f"umask 022; {loop}; {take % rest}" if rest else f"umask 022; {loop}"


def _pieces(file: Path, start: int, size: int, progress: Advance) -> Iterator[bytes]:
    with file.open("rb") as stream:
        stream.seek(start)
        done = start
        while done < size and (piece := stream.read(min(PIECE, size - done))):
            progress(done, size)
            yield piece
            done += len(piece)
        progress(size, size)


async def _digest_of(cluster: Cluster, pod: Object, path: PurePosixPath) -> str:
    """SHA-256 of a file in the pod, in hex; empty where there is none."""
    name = quote(str(path))
    said = await _run(cluster, pod, f"if [ -f {name} ]; then sha256sum < {name}; fi")
    return said.decode(errors="replace").split(" ")[0].strip()


async def _size_of(cluster: Cluster, pod: Object, path: PurePosixPath) -> int:
    name = quote(str(path))
    said = await _run(cluster, pod, f"if [ -f {name} ]; then wc -c < {name}; else echo 0; fi")
    text = said.decode(errors="replace").strip()
    if not text.isdigit():
        raise ClusterError(f"the pod says that {path} has {text[:60]!r} bytes")
    return int(text)


async def _run(cluster: Cluster, pod: Object, script: str, content: Iterator[bytes] | tuple[()] = ()) -> bytes:
    code, said = await cluster.execute(pod, ["sh", "-c", script], content=content)
    if code:
        text = " ".join(said.decode(errors="replace").split())[:300]
        more = "; it needs sh, head, wc, mv and sha256sum, which the image tacit-cli has" if code == _NOTHING else ""
        raise ClusterError(f"the pod cannot take the file: {text or f'exit code {code}'}{more}")
    return said
