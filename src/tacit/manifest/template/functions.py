"""What a template can call: encodings of secrets, and the few general functions of Go that manifests use.

A refusal's text is Go's or MarbleRun's, except that it never holds a value: Go prints what it could not compare or
iterate over, which may be a secret.
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from tacit.manifest.template.data import Bytes, Entries, Record

Target = Literal["file", "env"]

MAX_WIDTH = 1000
"""Characters to which printf may pad."""

_VERB = re.compile(r"%(?P<flags>[-0]*)(?P<width>[0-9]*)(?P<verb>[a-zA-Z%])|%")


class CallError(ValueError):
    """A function refuses its arguments."""


def type_name(value: object) -> str:
    """Go's name of a value's type."""
    match value:
        case None:
            return "nil"
        case bool():
            return "bool"
        case int():
            return "int"
        case Bytes() | Record() | Entries():
            return value.go_type
    return "string"


def is_true(value: object) -> bool:
    """Go's truth: not zero, not empty, not nil. A record is true, and so is a certificate, also one that is not there."""
    match value:
        case Bytes(label="CERTIFICATE"):
            return True
        case Bytes():
            return bool(value.data)
        case Entries():
            return bool(value.values)
        case Record():
            return True
    return bool(value)


# ---- encodings


def _secret_bytes(value: object) -> bytes:
    """The bytes that stand for a secret: of a whole one its public part, which for keys is the key."""
    match value:
        case None:
            message = "secret does not exist"
            raise CallError(message)
        case Record(go_type="manifest.Secret"):
            return _secret_bytes(value.fields["Public"])
        case Bytes():
            if not value.data:
                message = "tried to parse secret with empty value"
                raise CallError(message)
            return value.data
    message = "invalid secret type"
    raise CallError(message)


def encode_pem(value: object) -> str:
    """A certificate or key as PEM, lines of 64 characters."""
    if value is None:
        return _latin(_secret_bytes(value))
    if not isinstance(value, Bytes) or not value.label:
        message = "invalid secret type for pem encoding"
        raise CallError(message)
    encoded = base64.b64encode(_secret_bytes(value)).decode("ascii")
    lines = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
    return "\n".join((f"-----BEGIN {value.label}-----", *lines, f"-----END {value.label}-----", ""))


def encode_hex(value: object) -> str:
    """Lower case hexadecimal digits."""
    return _secret_bytes(value).hex()


def encode_base64(value: object) -> str:
    """Padded standard base64 in one line."""
    return base64.b64encode(_secret_bytes(value)).decode("ascii")


def encode_raw(value: object) -> str:
    """The bytes as they are."""
    return _latin(_secret_bytes(value))


def encode_string(value: object) -> str:
    """A plain secret as text for an environment variable, which cannot hold NUL."""
    if value is None:
        return _latin(_secret_bytes(value))
    if not isinstance(value, Record) or value.fields.get("Type") != "plain":
        message = "only secrets of type plain are allowed to use string encoding for environment variables"
        raise CallError(message)
    data = _secret_bytes(value)
    if b"\0" in data:
        message = "secret contains null bytes"
        raise CallError(message)
    return _latin(data)


def as_characters(latin: str) -> str:
    """Text of bytes as the characters that they mean; a byte that means none is a lone surrogate."""
    return latin.encode("latin-1").decode("utf-8", "surrogateescape")


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


# ---- general


def equal(first: object, *others: object) -> bool:
    """Whether the first is equal to any other."""
    if not others:
        message = "missing argument for comparison"
        raise CallError(message)
    return any(_same(first, other) for other in others)


def unequal(first: object, second: object) -> bool:
    """Whether two values differ."""
    return not _same(first, second)


def _same(first: object, second: object) -> bool:
    if first is None or second is None:
        return _is_nil(first) and _is_nil(second)
    if isinstance(first, Bytes | Entries | Record) and isinstance(second, Bytes | Entries | Record):
        if _is_nil(first) or _is_nil(second):
            return _is_nil(first) and _is_nil(second)
        message = f"non-comparable type {type_name(first)}"
        raise CallError(message)
    if type(first) is not type(second):
        raise _incompatible(first, second)
    return first == second


def _is_nil(value: object) -> bool:
    """Whether there is nothing, as with a key that its owner has not set."""
    return value is None or (isinstance(value, Bytes) and value.label != "CERTIFICATE" and not value.data)


def _incompatible(first: object, second: object) -> CallError:
    return CallError(f"incompatible types for comparison: {type_name(first)} and {type_name(second)}")


def less(first: object, second: object) -> bool:
    """Whether the first of two numbers, or of two texts, is the smaller."""
    for value in (first, second):
        if not isinstance(value, int | str):
            message = "invalid type for comparison"
            raise CallError(message)
    if isinstance(first, str) and isinstance(second, str):
        return first < second
    if type(first) is not type(second):
        raise _incompatible(first, second)
    if isinstance(first, int) and isinstance(second, int) and not isinstance(first, bool):
        return first < second
    message = "invalid type for comparison"
    raise CallError(message)


def less_or_equal(first: object, second: object) -> bool:
    """Whether the first of two numbers, or of two texts, is not the greater."""
    return less(first, second) or _same(first, second)


def greater(first: object, second: object) -> bool:
    """Whether the first of two numbers, or of two texts, is the greater."""
    return not less_or_equal(first, second)


def greater_or_equal(first: object, second: object) -> bool:
    """Whether the first of two numbers, or of two texts, is not the smaller."""
    return not less(first, second)


def negate(value: object) -> bool:
    """Go's `not`."""
    return not is_true(value)


def length(value: object) -> int:
    """Bytes of text or of a secret, entries of a map."""
    match value:
        case str():
            return len(value)
        case Bytes() if value.label != "CERTIFICATE":
            return len(value.data)
        case Entries():
            return len(value.values)
    if value is None:
        message = "reflect: call of reflect.Value.Type on zero Value"
        raise CallError(message)
    message = f"len of type {type_name(value)}"
    raise CallError(message)


def index(value: object, *keys: object) -> object:
    """An entry of a map by name, a byte by number."""
    if value is None:
        message = "index of untyped nil"
        raise CallError(message)
    for key in keys:
        value = _index_once(value, key)
    return value


def _index_once(value: object, key: object) -> object:
    match value:
        case Entries():
            if isinstance(key, str):
                return value.values.get(key, value.missing)
            message = f"value has type {type_name(key)}; should be string"
        case str():
            return _byte(value.encode("latin-1"), key)
        case Bytes() if value.label != "CERTIFICATE":
            return _byte(value.data, key)
        case _:
            message = f"can't index item of type {type_name(value)}"
    raise CallError(message)


def _byte(data: bytes, key: object) -> int:
    if key is None:
        message = "cannot index slice/array with nil"
    elif isinstance(key, bool) or not isinstance(key, int):
        message = f"cannot index slice/array with type {type_name(key)}"
    elif 0 <= key < len(data):
        return data[key]
    else:
        message = f"index out of range: {key}"
    raise CallError(message)


def join(*values: object) -> str:
    """Go's Sprint: values one after another, a blank between two of which neither is text."""
    out = ""
    for number, value in enumerate(values):
        if number and not (isinstance(value, str) or isinstance(values[number - 1], str)):
            out += " "
        out += _printed(value)
    return out


def join_line(*values: object) -> str:
    """Go's Sprintln: a blank between all values, and the end of the line."""
    return " ".join(map(_printed, values)) + "\n"


def _printed(value: object) -> str:
    return "<nil>" if value is None else format_value("v", value)


def printf(template: object, *values: object) -> str:
    """Go's Sprintf with the verbs %s %d %x %X %q %v %t and %%, with width and the flags `-` and `0`."""
    if not isinstance(template, str):
        message = "printf needs a format first"
        raise CallError(message)
    rest = list(values)

    def fill(match: re.Match[str]) -> str:
        verb = match["verb"]
        if verb is None:
            message = "printf: this verb is not supported in a manifest"
            raise CallError(message)
        if verb == "%":
            return "%"
        if not rest:
            message = f"printf: no value for %{verb}"
            raise CallError(message)
        width = int(match["width"][:9] or 0)
        if width > MAX_WIDTH:
            message = f"printf: a width of {width} is too large; at most {MAX_WIDTH}"
            raise CallError(message)
        return _filled(verb, rest.pop(0), match["flags"], width)

    text = _VERB.sub(fill, template)
    if rest:
        message = f"printf: {len(rest)} more values than verbs"
        raise CallError(message)
    return text


def _filled(verb: str, value: object, flags: str, width: int) -> str:
    """A value by a verb, at least `width` characters wide; of a list of bytes each is."""
    if value is None and verb == "v":
        return _padded("<nil>", flags, width)
    if isinstance(value, Bytes) and value.label != "CERTIFICATE" and verb in "vd":
        return _listed(_padded(str(byte), flags, width) for byte in value.data)
    shown = format_value(verb, value)
    if isinstance(value, int) and shown.startswith("-") and _fill(flags) == "0":
        return "-" + _padded(shown[1:], flags, width - 1)
    return _padded(shown, flags, width)


def _fill(flags: str) -> str:
    return "0" if "0" in flags and "-" not in flags else " "


def _padded(shown: str, flags: str, width: int) -> str:
    fill = _fill(flags) * (width - len(as_characters(shown)))
    return shown + fill if "-" in flags else fill + shown


def _listed(bytes_shown: Iterable[str]) -> str:
    return f"[{' '.join(bytes_shown)}]"


def format_value(verb: str, value: object) -> str:
    """One value by one verb of printf; `v` is also how a value is put out.

    Raises:
        CallError: the verb does not fit, or the value has no one way to be shown.
    """
    shown: str | None = None
    match value:
        case None if verb == "v":
            shown = "<no value>"
        case bool() if verb in "vt":
            shown = "true" if value else "false"
        case int() if not isinstance(value, bool) and verb in "vdxX":
            shown = f"{value:{verb}}" if verb in "xX" else str(value)
        case str():
            shown = _format_text(verb, value)
        case Bytes() if value.label != "CERTIFICATE":
            shown = _listed(map(str, value.data)) if verb in "vd" else _format_text(verb, _latin(value.data))
    if shown is not None:
        return shown
    if verb == "v":
        what = "certificate" if isinstance(value, Bytes) else "map" if isinstance(value, Entries) else "whole secret"
        message = f"a {what} cannot be put out as it is; use pem, hex or base64"
        raise CallError(message)
    message = f"printf: %{verb} is not supported for a value of type {type_name(value)}"
    raise CallError(message)


def _format_text(verb: str, value: str) -> str | None:
    if verb == "q":
        return quote(value)
    return value if verb == "v" else _format_bytes(verb, value.encode("latin-1"))


def _format_bytes(verb: str, data: bytes) -> str | None:
    match verb:
        case "s":
            return _latin(data)
        case "x":
            return data.hex()
        case "X":
            return data.hex().upper()
    return None


def quote(latin: str) -> str:
    """Text in Go's double quotes."""
    names = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
    names |= {"\\": r"\\", '"': r"\""}
    out = []
    for character in as_characters(latin):
        code = ord(character)
        if character in names:
            out.append(names[character])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            out.append(character.encode().decode("latin-1"))
        else:
            out.append(f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


_GENERAL: dict[str, tuple[Callable[..., object], int, int | None]] = {
    "eq": (equal, 1, None),
    "ne": (unequal, 2, 2),
    "lt": (less, 2, 2),
    "le": (less_or_equal, 2, 2),
    "gt": (greater, 2, 2),
    "ge": (greater_or_equal, 2, 2),
    "not": (negate, 1, 1),
    "len": (length, 1, 1),
    "index": (index, 1, None),
    "print": (join, 0, None),
    "println": (join_line, 0, None),
    "printf": (printf, 1, None),
}
_ENCODINGS: dict[str, tuple[Callable[..., object], int, int | None]] = {
    "pem": (encode_pem, 1, 1),
    "hex": (encode_hex, 1, 1),
    "base64": (encode_base64, 1, 1),
}
FUNCTIONS: dict[Target, dict[str, tuple[Callable[..., object], int, int | None]]] = {
    "file": _GENERAL | _ENCODINGS | {"raw": (encode_raw, 1, 1)},
    "env": _GENERAL | _ENCODINGS | {"string": (encode_string, 1, 1)},
}
"""By target and name: the function, how many arguments it needs, and how many it takes (None: any number)."""
SHORT_CIRCUIT = ("and", "or")
"""These evaluate their arguments one by one, so they live in the evaluator."""


def call(target: Target, name: str, arguments: Sequence[object]) -> object:
    """The function's value.

    Raises:
        CallError: it refuses, in the words that follow `error calling NAME: `.
    """
    function, _, _ = FUNCTIONS[target][name]
    return function(*arguments)
