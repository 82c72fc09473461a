"""Where a value stands in a YAML text, which its conversion to JSON forgets."""

from collections.abc import Iterator

import yaml

from tacit.errors import Defect
from tacit.manifest.review.defects import Step


class YamlPlaces:
    """The places of one YAML text that can be read."""

    def __init__(self, raw: bytes) -> None:
        self._root = yaml.compose(raw, Loader=yaml.SafeLoader)

    def find(self, steps: tuple[Step, ...]) -> tuple[int, int]:
        """Line and column, both from 1, of the last step that is there."""
        node, mark = self._root, None if self._root is None else self._root.start_mark
        for step in steps:
            found = _child(node, step)
            if found is None:
                break
            node, mark = found[1], found[0].start_mark
        return (1, 1) if mark is None else (mark.line + 1, mark.column + 1)

    def repeated(self) -> Iterator[Defect]:
        """Each key that stands twice in one mapping: the reading takes the last and says nothing."""
        seen: set[int] = set()
        waiting: list[tuple[str, yaml.Node | None]] = [("", self._root)]
        while waiting:
            path, node = waiting.pop()
            if node is None or id(node) in seen:  # an alias leads back
                continue
            seen.add(id(node))
            if isinstance(node, yaml.SequenceNode):
                waiting += [(f"{path}[{index}]", item) for index, item in enumerate(node.value)]
            if not isinstance(node, yaml.MappingNode):
                continue
            keys: set[str] = set()
            for key, value in node.value:
                name = str(key.value)
                inner = f"{path}.{name}".removeprefix(".")
                if name in keys:
                    mark = key.start_mark
                    text = f'"{name}" stands here again; the last one was used'
                    yield Defect(inner, mark.line + 1, mark.column + 1, text)
                keys.add(name)
                waiting.append((inner, value))


def _child(node: yaml.Node | None, step: Step) -> tuple[yaml.Node, yaml.Node] | None:
    """Where the step stands, and its value."""
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    if not isinstance(node, yaml.MappingNode) or not isinstance(step, str):
        return None
    named = [pair for pair in node.value if str(pair[0].value) == step] or [
        pair for pair in node.value if str(pair[0].value).casefold() == step.casefold()
    ]
    return named[-1] if named else None
