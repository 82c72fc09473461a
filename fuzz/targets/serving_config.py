"""The server's text files: `s` + an SSL configuration, which came from the coordinator; else a list of models."""

from tacit.errors import UsageError
from tacit.serving.tfs.config import parse_model_config, parse_ssl_config

REFUSALS = (UsageError,)
LIMIT = 4096  # bytes


def check(data: bytes) -> None:
    text = data[1:].decode("utf-8", "replace")
    if data[:1] == b"s":
        credentials = parse_ssl_config(text)
        assert "CANARY" not in repr(credentials)
    else:
        assert parse_model_config(text)
