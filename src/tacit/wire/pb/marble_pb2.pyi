from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ActivationRequest(_message.Message):
    __slots__ = ("quote", "csr", "marble_type", "uuid")
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    MARBLE_TYPE_FIELD_NUMBER: _ClassVar[int]
    UUID_FIELD_NUMBER: _ClassVar[int]
    quote: bytes
    csr: bytes
    marble_type: str
    uuid: str
    def __init__(self, quote: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., marble_type: _Optional[str] = ..., uuid: _Optional[str] = ...) -> None: ...

class ActivationResponse(_message.Message):
    __slots__ = ("parameters",)
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    parameters: Parameters
    def __init__(self, parameters: _Optional[_Union[Parameters, _Mapping]] = ...) -> None: ...

class Parameters(_message.Message):
    __slots__ = ("files", "env", "argv")
    class FilesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    FILES_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    ARGV_FIELD_NUMBER: _ClassVar[int]
    files: _containers.ScalarMap[str, bytes]
    env: _containers.ScalarMap[str, bytes]
    argv: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, files: _Optional[_Mapping[str, bytes]] = ..., env: _Optional[_Mapping[str, bytes]] = ..., argv: _Optional[_Iterable[str]] = ...) -> None: ...
