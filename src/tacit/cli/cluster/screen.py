"""How an install looks to a person: a line for each step, and a bar for what comes up; in scripts lines alone."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import typer

from tacit.kube.readiness import Part

_DONE = "\N{CHECK MARK}"
_SAME = 60  # characters by which two lines about a part are the same


class Screen:
    """Shows what happens, on standard error where standard output is for a program."""

    def __init__(self, *, err: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._err = err
        console = Console(stderr=err)
        self._live = console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[trouble]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not self._live, transient=True)
        self._task = self._progress.add_task("Coming up", total=None, trouble="")
        self._said: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """What was just done, or found."""
        self._line(f"{_DONE} {text}")

    def parts(self, parts: Sequence[Part]) -> None:
        """Each part, once it is ready, or when something new is in its way."""
        trouble = next((part.trouble.text for part in parts if part.trouble is not None), "")
        self._progress.update(
            self._task,
            total=sum(part.wanted for part in parts),
            completed=sum(min(part.ready, part.wanted) for part in parts),
            trouble=trouble[:60],
        )
        for part in parts:
            state = f"{part.ready} of {part.wanted} ready"
            text = f"{_DONE} {part.kind} {part.name}: {state}" if part.is_ready else ""
            if not part.is_ready and part.trouble is not None:
                text = f"  {part.kind} {part.name}: {state}: {part.trouble.text}"
            # What is in the way is told in ever other words; the first of them are enough until it is gone.
            kind = text[:_SAME]
            if text and self._said.get(part.name) != kind:
                self._said[part.name] = kind
                self._line(text)

    def _line(self, text: str) -> None:
        if self._live:
            self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            typer.echo(text, err=self._err)
