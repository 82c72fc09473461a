"""What does a marble find in this file or variable?

A content of the manifest and the secrets come in, bytes go out. The language is the part of Go's text/template that
manifests use, written out here because no Python library has it, and because a general one would let a template reach
further than the secrets.

(1) `lex`: text → tokens, (2) `parse`: tokens → steps, (3) `evaluate`: steps → output.
"""

from collections.abc import Callable, Collection

from tacit.errors import TemplateError
from tacit.manifest.model import Content, Manifest, Parameters
from tacit.manifest.template.data import TemplateData, TemplateSecret
from tacit.manifest.template.evaluate import evaluate
from tacit.manifest.template.functions import FUNCTIONS, SHORT_CIRCUIT, Target
from tacit.manifest.template.parse import parse

__all__ = ["TemplateData", "TemplateSecret", "check_content", "check_templates", "render", "render_text"]

NUL_MESSAGE = "content contains null bytes"


def render(content: Content, data: TemplateData, *, target: Target) -> bytes:
    """The bytes of a file, or the value of an environment variable.

    Raises:
        TemplateError: a template that cannot be filled in, or NUL in a variable; in MarbleRun's words.
    """
    value = render_text(content.data, data, target=target) if content.templates else content.data
    if target == "env" and b"\0" in value:
        raise TemplateError(NUL_MESSAGE)
    return value


def render_text(template: bytes, data: TemplateData, *, target: Target) -> bytes:
    """What a template gives.

    Raises:
        TemplateError: with the place and, of the secrets, nothing but their names.
    """
    text = template.decode("latin-1")
    if "{{" not in text:
        return template
    steps = parse(text, _NAMES[target])
    return evaluate(steps, data.dot, text=text, target=target).encode("latin-1")


_NAMES: dict[Target, frozenset[str]] = {
    target: frozenset(functions) | frozenset(SHORT_CIRCUIT) for target, functions in FUNCTIONS.items()
}


def check_content(content: Content, data: TemplateData, *, target: Target) -> None:
    """Fill in one content with placeholders, to see whether that can be done.

    NUL in a variable is refused where the manifest itself has it. What a secret brings is seen when the variable is
    made: a placeholder says nothing about it, and a generated key has a zero byte by chance.

    Raises:
        TemplateError: it cannot, in MarbleRun's words.
    """
    if target == "env" and b"\0" in content.data:
        raise TemplateError(NUL_MESSAGE)
    if content.templates:
        render_text(content.data, data, target=target)


def check_templates(
    manifest: Manifest,
    data: TemplateData,
    *,
    marbles: Collection[str] | None = None,
    concerned: Callable[[Content], bool] = lambda _content: True,
) -> None:
    """Try every file and variable of every marble once, or of these `marbles`; those not `concerned` are spared.

    Raises:
        TemplateError: the first that fails, as `in Marble M: file F: ...`.
    """
    for name in sorted(manifest.marbles if marbles is None else marbles):
        _check_parameters(name, manifest.marbles[name].parameters, data, concerned)


def _check_parameters(
    name: str, parameters: Parameters, data: TemplateData, concerned: Callable[[Content], bool]
) -> None:
    for variable, content in sorted(parameters.env.items()):
        if not concerned(content):
            continue
        try:
            check_content(content, data, target="env")
        except TemplateError as exc:
            # MarbleRun has a colon more in this one case.
            colon = ":" if str(exc) == NUL_MESSAGE else ""
            message = f"in Marble {name}: env variable{colon} {variable}: {exc}"
            raise TemplateError(message) from exc
    for path, content in sorted(parameters.files.items()):
        if not concerned(content):
            continue
        try:
            check_content(content, data, target="file")
        except TemplateError as exc:
            message = f"in Marble {name}: file {path}: {exc}"
            raise TemplateError(message) from exc
