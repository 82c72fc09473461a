"""The server's text files: `s` + an SSL configuration, `o` + monitoring, `p` + platforms, else a list of models."""

from tacit.errors import UsageError
from tacit.serving.tfs.config import (
    check_platform_config,
    parse_model_config,
    parse_monitoring_config,
    parse_ssl_config,
)

REFUSALS = (UsageError,)
LIMIT = 4096  # bytes


def check(data: bytes) -> None:
    text = data[1:].decode("utf-8", "replace")
    if data[:1] == b"s":
        credentials = parse_ssl_config(text)
        assert "CANARY" not in repr(credentials)
    elif data[:1] == b"o":
        assert parse_monitoring_config(text).path.startswith("/")
    elif data[:1] == b"p":
        check_platform_config(text)
    else:
        assert parse_model_config(text)
