"""What a coordinator adds to a marble's parameters for models: one variable, and keys below one path.

Written by the coordinator, read by premain (the path) and by the model server (the variable).
"""

import msgspec

KEY_FOLDER = "/tacit/keys/"
"""Files below it are model keys, by model name. They go into memory wherever it is, never to that path."""
MODELS_ENV = "TACIT_MODELS"
"""The variable that holds a JSON object of `ModelRule`, by model name."""


class ModelRule(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What the manifest says of one model. `id` is hex, empty where it names none; `key` is the secret's name."""

    format: str
    id: str = ""
    min_version: int = 0
    key: str = ""


CLIENTS_ENV = "TACIT_CLIENTS"
"""The variable that holds a JSON object of `ClientRule`, by client name; absent where the manifest names no client."""


class ClientRule(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """What the manifest says of one client. `certificate` and `token` are SHA-256 in hex, of DER and of the text."""

    certificate: str = ""
    token: str = ""
    models: list[str] = []
    management: bool = False
