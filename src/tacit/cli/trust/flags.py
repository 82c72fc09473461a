"""The options that every verb of MarbleRun's takes, wherever they stand among the words, and what they say."""

import re
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from tacit.errors import UsageError

CLUSTER_VERBS = frozenset({"install", "uninstall", "precheck", "check", "namespace"})
"""Verbs of MarbleRun's command line that are about a cluster."""

MARBLERUN_VERBS = CLUSTER_VERBS | {
    *("status", "manifest", "certificate", "secret", "recover", "recover-with-signature", "package-info", "version")
}
"""Verbs of MarbleRun's command line: scripts that call them expect 1 for wrong usage too."""

_ASK_NOBODY = CLUSTER_VERBS | {
    *("package-info", "version", "manifest signature"),
    *("recover-with-signature encrypt-secret", "recover-with-signature sign-secret"),
}
"""Of these the ones that ask no coordinator: `-i` has nothing to skip."""

_OURS = frozenset({"trust", "log", "predict"})  # and these ask a coordinator as well
_NAMESPACE = "marblerun"
_NAMESPACE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")

_VALUED = (
    "--era-config",
    "--accepted-tcb-statuses",
    "--accepted-advisories",
    "--coordinator-cert",
    "--nonce",
    "--save-sgx-quote",
    "--namespace",
)


@dataclass(frozen=True, slots=True)
class Flags:
    """How a coordinator is to be judged this once. None where nothing was said.

    `certificates` is a file of certificates that were checked before (`--coordinator-cert`), `nonce` goes to the
    coordinator in place of a random one, and its evidence is written to `quote_file`. `namespace` is the coordinator's on
    a cluster; `kube` tells that it is reached through that.
    """

    era_config: Path | None = None
    accepted_statuses: tuple[str, ...] | None = None
    accepted_advisories: tuple[str, ...] | None = None
    certificates: Path | None = None
    nonce: bytes | None = None
    quote_file: Path | None = None
    namespace: str = _NAMESPACE
    kube: bool = False


_NOTHING = Flags()
_flags: ContextVar[Flags] = ContextVar("flags", default=_NOTHING)


def current_flags() -> Flags:
    """What the words of this command say."""
    return _flags.get()


_context: ContextVar[typer.Context] = ContextVar("context")


def current_context() -> typer.Context:
    """Of the whole command: what is opened in it is closed when the command ends."""
    return _context.get()


def take_flags(
    context: typer.Context,
    era_config: Annotated[
        Path | None,
        typer.Option("--era-config", help="What to expect of the coordinator, as MarbleRun's releases say it."),
    ] = None,
    statuses: Annotated[
        str | None, typer.Option("--accepted-tcb-statuses", help="TCB statuses to accept, with commas between them.")
    ] = None,
    advisories: Annotated[
        str | None, typer.Option("--accepted-advisories", help="Advisories to accept, with commas between them.")
    ] = None,
    certificates: Annotated[
        Path | None, typer.Option("--coordinator-cert", help="File of the certificates that were checked.")
    ] = None,
    nonce: Annotated[
        str | None, typer.Option("--nonce", help="Nonce for the evidence, instead of a random one.")
    ] = None,
    quote_file: Annotated[
        Path | None, typer.Option("--save-sgx-quote", help="File for the evidence, as it came.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Of the coordinator, on a cluster (marblerun).")
    ] = None,
    kube: Annotated[
        bool, typer.Option("--kube", help="Reach the coordinator through the cluster of your kubeconfig.")
    ] = False,
) -> None:
    """Take the options that stand before the verb."""
    _context.set(context)
    given = (era_config, statuses, advisories, certificates, nonce, quote_file, None if kube else namespace)
    verb = context.invoked_subcommand
    if kube and (verb not in MARBLERUN_VERBS | _OURS or verb in CLUSTER_VERBS):
        raise UsageError(f"--kube is for commands that ask a coordinator, and {verb} asks none")
    if verb not in MARBLERUN_VERBS and any(one is not None for one in given):
        raise UsageError(
            f"an option of MarbleRun's verbs stands before {verb}, which is none of them; "
            "say once what to expect of a coordinator with `tacit trust`"
        )
    _flags.set(
        Flags(
            era_config,
            None if statuses is None else _listed(statuses),
            None if advisories is None else _listed(advisories),
            certificates,
            None if nonce is None else nonce.encode(),
            quote_file,
            check_namespace(namespace or _NAMESPACE),
            kube,
        )
    )


def check_namespace(text: str) -> str:
    """The name of a namespace, as it is. Raises: UsageError."""
    if not _NAMESPACE_NAME.fullmatch(text):
        raise UsageError(f"{text!r} is no namespace; expected small letters, digits and dashes, at most 63")
    return text


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def arrange(words: Sequence[str]) -> list[str]:
    """The words of one command as our parser takes them, written as MarbleRun's takes them.

    There these options may stand anywhere, `-i` before the verb too and with verbs that ask nobody, a flag may be
    `--flag=true`, and a letter's value may follow `=` or the letter. `help VERB` asks for help. The words of other verbs
    are left as they are.

    Raises: UsageError.
    """
    if words[:1] == ["help"]:
        return [*words[1:], "--help"]
    verb = verb_of(words)
    if verb not in MARBLERUN_VERBS and not (verb in _OURS and "--kube" in words):
        return list(words)
    front: list[str] = []
    kept: list[str] = []
    insecure = False
    ended: list[str] = []
    rest = iter(words)
    for word in rest:
        name, given, value = word.partition("=")
        if word == "--":
            ended = [word, *rest]
            break
        if name in _VALUED or name == "-n":
            front += [name, value if given else _value(name, rest)]
        elif word.startswith("-n"):
            front += ["-n", word[2:]]
        elif word == "--kube":
            front.append(word)
        elif name in ("-i", "--insecure") and (not given or value in ("true", "false")):
            insecure = value != "false"
        elif len(name) == 2 and name[0] == "-" and given:
            kept += [name, value]
        else:
            kept.append(word)
    told = [word for word in (*kept, *ended) if not word.startswith("-")]
    if {verb, " ".join(told[:2])} & _ASK_NOBODY:
        insecure = False
    return [*front, *kept, *(["-i"] if insecure else []), *ended]


def _value(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"Option '{name}' requires an argument. See: tacit --help")
    return value


def verb_of(words: Sequence[str]) -> str:
    """The first word that is neither an option nor its value."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        if word in _VALUED or word == "-n":
            next(rest, None)
    return ""
