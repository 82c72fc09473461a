"""Which arguments and variables of a command open what the rest of the manifest closes?

Nothing here repeats an argument: only the flag's name, or what kind of word it is.
"""

import re
from collections.abc import Iterator, Mapping

from tacit.manifest.model import Content

_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "busybox"})
_REMOTE = re.compile(r"(?:https?|ftp|s3|gs|hdfs)://", re.IGNORECASE)
_OPEN_FLAG = re.compile(
    r"--?(?:[\w-]*insecure|unattested|no[_-]tls|no[_-]verify|allow[_-]simulated[\w-]*|debug)(?:=.*)?", re.I
)

_TABLE_OF_VARIABLES = {
    **dict.fromkeys(
        ("LD_PRELOAD", "LD_LIBRARY_PATH", "LD_AUDIT", "PYTHONPATH", "PYTHONSTARTUP"),
        "code is loaded from a place that the package's measurement may not cover",
    ),
    **dict.fromkeys(
        ("OE_SIMULATION", "TACIT_UNATTESTED"),
        "it switches attestation off in programs that look at it",
    ),
}


def weak_arguments(argv: tuple[str, ...]) -> Iterator[tuple[int, str, str, str]]:
    """(index, what, why, better form) of each argument that needs a second look."""
    for index, argument in enumerate(argv):
        flag, _, value = argument.partition("=")
        if index == 0 and argument.rpartition("/")[2] in _SHELLS:
            yield index, "the command is a shell", "it runs whatever its script says", "the program itself"
        if "{{" in argument:
            why = "templates are not filled in here: the program gets the braces"
            yield index, "a template in an argument", why, "Parameters.Files or Parameters.Env"
        if _REMOTE.match(value) or (not flag.startswith("-") and _REMOTE.match(argument)):
            named = flag if flag.startswith("-") else "the argument"
            why = "who answers at that address, or stands in between, chooses what is loaded"
            yield (
                index,
                f"{_flag_name(named)} is a remote address",
                why,
                "a local path, and Models with the capsule's ID",
            )
        elif _OPEN_FLAG.fullmatch(argument):
            why = "a flag of this name switches a protection off"
            yield index, f"{_flag_name(flag)} is given", why, "leave it out"


def _flag_name(flag: str) -> str:
    """A flag's name as it may be shown; what is not made like one could be anything."""
    return flag if re.fullmatch(r"--?[A-Za-z][\w-]{0,40}|the argument", flag) else "an argument"


def weak_variables(env: Mapping[str, Content]) -> Iterator[tuple[str, str, str]]:
    """(name, why, better form) of each variable that needs a second look."""
    for name in sorted(env):
        if name in _TABLE_OF_VARIABLES:
            yield name, _TABLE_OF_VARIABLES[name], "leave it out; what the program needs belongs in its image"
