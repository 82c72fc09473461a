"""What became of the mutants, module by module, kept in a file; and the page that tells it."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mutants import Mutant, mutants_of

NOTICED = "noticed"  # a test failed
UNLOADABLE = "unloadable"  # the module does not load, so every test of it fails
STUCK = "stuck"  # twice, the second time alone
BROKEN = "broken"  # the process ended in a way that says nothing: it counts as not noticed
SURVIVED = "survived"
UNTRIED = "untried"
_LEFT = (SURVIVED, BROKEN, UNTRIED)


class Results:
    """Outcomes by module and mutant, for the text of the module that ran (its SHA-256)."""

    def __init__(self, path: Path, accepted: Path, source: Path, every: list[Path]) -> None:
        self._path, self._source, self._every = path, source, every
        self._kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self._accepted = _read_accepted(accepted)

    def wants(self, where: str, source: str, mutant: Mutant, *, again: bool) -> bool:
        """Whether this mutant is to be tried."""
        if (where, mutant.name) in self._accepted:
            return False
        kept = self._kept.get(where)
        return not again or kept is None or kept["sha256"] != _digest(source) or mutant.name in kept["left"]

    def add(self, where: str, source: str, found: Mapping[str, str], *, again: bool) -> None:
        """Keep what a run over one module found; with `again`, beside what the run before it had found."""
        kept = self._kept.get(where)
        counts: Counter[str] = Counter()
        if again and kept is not None and kept["sha256"] == _digest(source):
            counts.update({outcome: kept[outcome] for outcome in (NOTICED, UNLOADABLE, STUCK)})
        counts.update(found.values())
        left = {name: outcome for name, outcome in sorted(found.items()) if outcome in _LEFT}
        ends = {outcome: counts[outcome] for outcome in (NOTICED, UNLOADABLE, STUCK)}
        self._kept[where] = {"sha256": _digest(source), **ends, "left": left}
        self._path.write_text(json.dumps(self._kept, indent=1, sort_keys=True) + "\n")

    def drop(self, where: str) -> None:
        """Forget a module whose tests cannot be believed: it did not run."""
        if self._kept.pop(where, None) is not None:
            self._path.write_text(json.dumps(self._kept, indent=1, sort_keys=True) + "\n")

    def wrong(self, modules: list[str]) -> list[str]:
        """What a run over these modules leaves to be done."""
        lines = []
        for where in modules:
            text = (self._source / where).read_text()
            names = {one.name for one in mutants_of(text)}
            kept = self._kept.get(where)
            if kept is None or kept["sha256"] != _digest(text):
                lines += [f"{where}: did not run"] if names else []
            else:
                left = {name: outcome for name, outcome in kept["left"].items() if (where, name) not in self._accepted}
                lines += [f"{outcome.upper()} {where} | {name}" for name, outcome in left.items()]
            gone = [name for at, name in self._accepted if at == where and name not in names]
            lines += [f"no such mutant any more, and accepted.txt has it: {where} | {name}" for name in gone]
        return lines

    def page(self) -> str:
        """docs/mutation.md."""
        rows, sums, left = [], Counter[str](), []
        for path in self._every:
            where, text = str(path.relative_to(self._source)), path.read_text()
            row = self._row(where, text)
            if not row["mutants"]:
                continue
            sums.update(row)
            cells = " | ".join(str(row[name]) for name in _COLUMNS)
            rows.append(f"| `{where}` | {cells} | {self._state(where, text)} |")
            for name, outcome in self._kept.get(where, {}).get("left", {}).items():
                if outcome != UNTRIED and (where, name) not in self._accepted:
                    left.append(f"- `{where}`, {outcome}: `{name}`")
        cells = " | ".join(str(sums[name]) for name in _COLUMNS)
        table = "\n".join([_HEAD, *rows, f"| all | {cells} | |"])
        accepted = "\n".join(f"- `{where}`: `{name[:_SHOWN]}`: {why}" for (where, name), why in self._accepted.items())
        return _PAGE.format(table=table, left="\n".join(left) or "None.", accepted=accepted or "None.")

    def _row(self, where: str, text: str) -> Counter[str]:
        names = [one.name for one in mutants_of(text)]
        row = Counter(mutants=len(names), accepted=sum((where, name) in self._accepted for name in names))
        kept = self._kept.get(where)
        if kept is None:
            row[UNTRIED] = row["mutants"] - row["accepted"]
            return row
        row.update({outcome: kept[outcome] for outcome in (NOTICED, UNLOADABLE, STUCK)})
        row.update(outcome for name, outcome in kept["left"].items() if (where, name) not in self._accepted)
        return row

    def _state(self, where: str, text: str) -> str:
        kept = self._kept.get(where)
        if kept is None:
            return "not run"
        return "ran" if kept["sha256"] == _digest(text) else "changed since it ran"


_SHOWN = 200  # characters of a mutant's name
_COLUMNS = ("mutants", NOTICED, UNLOADABLE, STUCK, "accepted", SURVIVED, BROKEN, UNTRIED)
_HEAD = """| module | mutants | a test fails | does not load | stuck | change nothing | survived | unclear | not tried | |
|---|---|---|---|---|---|---|---|---|---|"""
_PAGE = """# Mutation testing

`make mutate` changes the checks of evidence and appraisal one at a time, and runs the tests of each change until one
fails: a comparison turned round, a condition that never or always holds, a `raise` left out, a number one higher, a word
with a letter more. What no test notices is a check without a test, or a change that changes nothing; the latter stand
in `mutation/accepted.txt`, each with its reason.

The driver wrote this page, from what it kept of each module as it ended (`mutation/results.json`, with the SHA-256 of
the text that ran). "A test fails" is what it says. "Does not load" is a change with which the module cannot be imported.
"Stuck" used a minute of the processor in one test, or a quarter of an hour by the clock, twice, the second time with
nothing else of the driver's running; it is counted apart, for no test said so. "Unclear" is a process that ended in
another way twice, and counts as not noticed. "Not tried" is what there was no time for, or what is new since.
"Change nothing" is a person's judgement: those were not tried once they stood in the list. A module's numbers may come
from several runs over the same text, as tests were added: `--again` tries only what was left of the run before.

What is not changed stands at the top of `mutation/mutants.py` (messages, decorators, defaults of arguments). Not part of
this are `evidence/claims.py`, and what asks for, makes or simulates evidence (`fetch`, `issue`, `simulated`).

{table}

## Survived, and not accepted

{left}

## Change nothing that a caller can tell

{accepted}
"""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_accepted(path: Path) -> dict[tuple[str, str], str]:
    """(module, name of the mutant) -> why it changes nothing."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.strip() and not line.startswith("#"):
            where, name, why = line.split(" | ")
            found[where.strip(), name.strip()] = why.strip()
    return found
