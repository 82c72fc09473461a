"""Everything that is wrong with a manifest, each with its place: what the strict reading refuses, and what makes no sense."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tacit.errors import Defect, ManifestError
from tacit.manifest.check import find_warnings, locate_defects
from tacit.manifest.codec import parse_manifest, parse_manifest_strict
from tacit.manifest.codec.decode import Place
from tacit.manifest.codec.text import Node, parse_text, position
from tacit.manifest.model import Manifest

Step = str | int

_STEP = re.compile(r'\.?([A-Za-z0-9_-]+)|\["(.*?)"\]|\[([0-9]+)\]', re.DOTALL)
_PLACED = re.compile(r"([A-Z][A-Za-z]*\.[^:]+): (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Examined:
    """A manifest with all its defects and warnings; `manifest` is None where no reading takes it."""

    manifest: Manifest | None
    defects: tuple[Defect, ...]
    warnings: tuple[str, ...]


def examine_manifest(raw: bytes) -> Examined:
    """What is to be said about a manifest before anybody uploads it. Never raises for what the manifest says."""
    defects: tuple[Defect, ...] = ()
    try:
        manifest: Manifest | None = parse_manifest_strict(raw)
    except ManifestError as exc:
        defects = exc.defects
        manifest = _read_leniently(raw)
    if manifest is None:
        return Examined(None, defects, ())
    return Examined(manifest, (*defects, *_senseless(raw, manifest)), tuple(find_warnings(manifest)))


def parse_path(path: str) -> tuple[Step, ...]:
    """The names and indexes of a path such as `Marbles.m.Parameters.Argv[2]` or `Marbles["a b"]`."""
    steps: list[Step] = []
    for name, quoted, index in _STEP.findall(path):
        steps.append(int(index) if index else name or quoted)
    return tuple(steps)


def _read_leniently(raw: bytes) -> Manifest | None:
    try:
        return parse_manifest(raw).manifest
    except ManifestError:
        return None


def _senseless(raw: bytes, manifest: Manifest) -> Iterator[Defect]:
    tree = parse_text(raw)
    for steps, text in dict.fromkeys(locate_defects(manifest)):
        place = Place()
        for step in steps:
            place = place.named(step)
        path, message = place.path, text
        placed = _PLACED.fullmatch(text)
        if placed is not None and placed[1].startswith(f"{path}."):
            path, message = placed[1], placed[2]
        line, column = position(raw, _offset(tree, parse_path(path)))
        yield Defect(path, line, column, message)


def _offset(tree: Node, steps: tuple[Step, ...]) -> int:
    """Where the last step that is there stands; keys ignoring case, as the lenient reading takes them."""
    node, offset = tree, tree.offset
    for step in steps:
        if isinstance(step, int):
            if step >= len(node.items):
                break
            node = node.items[step]
            offset = node.offset
            continue
        named = [one for one in node.members if one.key == step] or [
            one for one in node.members if one.key.casefold() == step.casefold()
        ]
        if not named:
            break
        node, offset = named[-1].value, named[-1].offset
    return offset
