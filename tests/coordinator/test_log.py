"""The program's log: one line an event, in MarbleRun's shape, and never a value that may be a key."""

import io
import json

from fakes.tee import NOW
from tacit.coordinator.log import EventLog, open_log


def log(*, debug: bool = False, development: bool = False) -> tuple[EventLog, io.StringIO]:
    stream = io.StringIO()
    return open_log(stream, clock=lambda: NOW, debug=debug, development=development), stream


def test_an_event_is_one_line_of_json() -> None:
    made, stream = log()
    made.error("failed\nbadly", path="/x", names=("a", "b"), cause=ValueError("why"))
    assert json.loads(stream.getvalue()) == {
        "level": "error",
        "ts": NOW.timestamp(),
        "msg": "failed\nbadly",
        "path": "/x",
        "names": ["a", "b"],
        "cause": "why",
    }
    assert stream.getvalue().count("\n") == 1


def test_t24_bytes_are_counted_and_not_shown() -> None:
    made, stream = log()
    made.info("key", value=b"secret")
    assert json.loads(stream.getvalue())["value"] == "6 bytes"


def test_what_is_below_the_level_is_not_written() -> None:
    made, stream = log()
    made.debug("detail")
    assert stream.getvalue() == ""
    made, stream = log(debug=True)
    made.debug("detail")
    assert json.loads(stream.getvalue())["level"] == "debug"


def test_in_development_a_line_is_for_people() -> None:
    made, stream = log(development=True)
    made.warning("slow", seconds=3)
    made.debug("detail")
    assert stream.getvalue() == (
        '2026-11-24T12:00:00.000Z\tWARN\tslow\t{"seconds":3}\n2026-11-24T12:00:00.000Z\tDEBUG\tdetail\n'
    )


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    made, stream = log()
    stream.close()
    made.info("still here")
