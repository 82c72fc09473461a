"""From a request to an answer, whichever HTTP it came by: the handler is called, and its failure told to the log alone."""

import json
import logging
import re
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache

from tacit.edge.listener import HttpHandler, HttpRefusal, HttpRequest, HttpResponse

_LOG = logging.getLogger("tacit.edge")
_TEXT: Mapping[str, str] = {"content-type": "text/plain; charset=utf-8"}
_JSON: Mapping[str, str] = {"content-type": "application/json"}
_ABSOLUTE = re.compile(r"https?://([^/?#]*)", re.IGNORECASE)
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
HEADS_KEPT = 32
"""Heads of answers that are remembered: a server says the same again and again."""
Fields = tuple[tuple[str, str], ...]
"""Headers, by name and value."""
BODILESS = frozenset((204, 304))  # statuses whose answers have neither a body nor its length


def text_answer(status: int, text: str) -> HttpResponse:
    """An answer of the server's own."""
    return HttpResponse(status, f"{text}\n".encode(), _TEXT)


def error_answer(status: int, text: str) -> HttpResponse:
    """The same as the REST interfaces of models spell it."""
    return HttpResponse(status, json.dumps({"error": text}).encode(), _JSON)


async def answer(handler: HttpHandler, request: HttpRequest, refuse: HttpRefusal) -> HttpResponse:
    """The handler's answer; a failure becomes 500 without its text."""
    try:
        response = await handler(request)
        check_fields(tuple(response.headers.items()))
        return response
    except Exception:
        # The caller learns nothing about our inside; our log has it.
        _LOG.exception("a handler failed", extra={"path": request.path})
        return refuse(500, "internal error")


def split_target(target: str) -> tuple[str, str, str]:
    """Path and query of a request's target, and the host where it names one: a client may send the whole address.

    Source: RFC 9112, section 3.2.2.
    """
    found = _ABSOLUTE.match(target)
    path, _, query = target[found.end() if found else 0 :].partition("?")
    return path or "/", query, found[1] if found else ""


class Date:
    """The time as HTTP writes it, made once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = ""

    def now(self) -> str:
        """The value of a Date header."""
        second = int(time.time())  # noqa: TID251 -- an answer says when it was made
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True)
        return self._text


def fields_of(status: int, headers: Fields, *, length: int, date: str) -> dict[str, str]:
    """The headers of an answer of `length` bytes, those that the handler left out included."""
    fields = {"date": date}
    if status not in BODILESS:
        fields["content-length"] = str(length)
    fields.update((name.lower(), value) for name, value in headers)
    return fields


@lru_cache(maxsize=HEADS_KEPT)
def check_fields(headers: Fields) -> None:
    """A header is one line, whatever a handler put into it. Raises: ValueError."""
    for name, value in headers:
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name!r} cannot be sent as it is")
