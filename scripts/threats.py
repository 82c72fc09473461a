"""Fill the last column of the table in docs/threats.md with the tests that carry each line's id.

Usage: python scripts/threats.py [--check]
"""

import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "threats.md"
TEST = re.compile(r"def (test_(t\d\d(?:_t\d\d)*)_\w+)\(")
ROW = re.compile(r"^\| (T\d\d) \| (.*) \| (held|part|later|residual) \|.*\|$")


def tests_by_threat() -> dict[str, list[str]]:
    """Files with tests that carry an id, as `room/file (count)`, by id."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for match in TEST.finditer(path.read_text()):
            for threat in match[2].split("_"):
                counts[threat.upper()][path.relative_to(ROOT / "tests").as_posix()] += 1
    return {threat: [f"{name} ({count})" for name, count in files.items()] for threat, files in counts.items()}


def fill(page: str, tests: dict[str, list[str]]) -> str:
    """The page with its last column written anew."""
    lines = []
    for line in page.splitlines():
        row = ROW.match(line)
        lines.append(
            f"| {row[1]} | {row[2]} | {row[3]} | {', '.join(tests.get(row[1], [])) or '**none**'} |" if row else line
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the page, or with --check say whether it is current and whether a held line lacks its test."""
    page = PAGE.read_text()
    tests = tests_by_threat()
    filled = fill(page, tests)
    bare = [
        row[1] for line in page.splitlines() if (row := ROW.match(line)) and row[3] == "held" and row[1] not in tests
    ]
    if not any(ROW.match(line) for line in page.splitlines()):
        print("Error: docs/threats.md has no table of threats", file=sys.stderr)
        return 1
    if bare:
        print(f"Error: {', '.join(bare)} are said to be held, and no test carries their id", file=sys.stderr)
    if "--check" not in sys.argv:
        PAGE.write_text(filled)
    elif filled != page:
        print("Error: docs/threats.md is not current; run python scripts/threats.py", file=sys.stderr)
        return 1
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
