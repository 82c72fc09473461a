"""What is written down, and for whom?

`events` is the program's log, for whoever runs it. `lines` are those of MarbleRun's update log. The audit log is for
the security officer: `entries` says what one can say, `journal` holds its newest end, `refusals` keeps strangers from
filling it. All of it names secrets and never holds a value.
"""

from tacit.coordinator.log.events import EventLog, LineLog, open_log

__all__ = ["EventLog", "LineLog", "open_log"]
