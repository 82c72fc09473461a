"""JSON of which two readers cannot get different values.

Collateral, platforms' files and texts that makers sign come from outside; everything is capped before it is parsed.
"""

import json
import re
from collections.abc import Callable
from typing import Any

# Real collateral has 20 to 60 KiB.
MAX_JSON_SIZE = 1024 * 1024
# Real texts nest six deep; deeper ones only cost stack.
MAX_JSON_DEPTH = 32


def parse_strict_json(raw: bytes, refuse: Callable[[str], Exception]) -> Any:
    """The value of a JSON text in which every key stands once.

    `refuse` makes the error of a defect. Refused: not UTF-8, larger than MAX_JSON_SIZE, deeper than MAX_JSON_DEPTH,
    a key twice (libraries differ in which one they take), NaN and infinities.
    """
    if len(raw) > MAX_JSON_SIZE:
        raise refuse(f"{len(raw)} bytes; at most {MAX_JSON_SIZE} are read")
    depth = deepest = 0
    for bracket in re.finditer(rb"[\[{\]}]", raw):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > MAX_JSON_DEPTH:
        raise refuse(f"nested {deepest} deep; at most {MAX_JSON_DEPTH} is read")
    try:
        return json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError as exc:
        raise refuse(f"not strict JSON: {exc}") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(pairs)
    if len(seen) != len(pairs):
        twice = next(key for key, _ in pairs if sum(other == key for other, _ in pairs) > 1)
        raise ValueError(f"the key {twice[:40]!r} stands twice")
    return seen


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")
