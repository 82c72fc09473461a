"""TensorFlow Serving's command line: every flag of its known, `--name=value` or `--name value`, bools bare too.

A flag either acts here, or is accepted and named in one log line (`accepted`), so that command lines that people have
keep working and nobody believes in a setting that does nothing. An unknown flag is refused with the nearest name.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from tacit.errors import UsageError

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its default tells its type, `acts` whether this server does anything with it.

    `least` and `most` bound a number.
    """

    default: Value
    help: str = ""
    acts: bool = True
    least: float = -math.inf
    most: float = math.inf


def _accepted(default: Value) -> Flag:
    return Flag(default, acts=False)


def _port(default: int, text: str) -> Flag:
    return Flag(default, text, least=-1, most=65535)


def _threads(text: str) -> Flag:
    return Flag(0, text, least=0, most=4096)


FLAGS: Final[Mapping[str, Flag]] = {
    # TensorFlow Serving's, and what they do here
    "port": _port(8500, "gRPC port; 0 turns it off"),
    "rest_api_port": _port(0, "REST port; 0 turns it off, the number of --port shares that"),
    "grpc_socket_path": Flag("", "also answer gRPC on this unix socket"),
    "rest_api_timeout_in_ms": Flag(
        30000, "milliseconds that a REST request may wait for its model, and run; 0 or less is no limit"
    ),
    "rest_api_enable_cors_support": Flag(False, "let web pages of any origin call the REST port"),
    "model_name": Flag("default", "name of the one model"),
    "model_base_path": Flag("", "folder with its versions, or one model file"),
    "model_config_file": Flag("", "text file with several models; wins over the two above"),
    "model_config_file_poll_wait_seconds": Flag(0, "seconds between looks at that file; 0 reads it once", least=0),
    "allow_version_labels_for_unavailable_models": Flag(
        False, "let a label that is not in use name a version that is not loaded, when models are reloaded"
    ),
    "max_num_load_retries": Flag(5, "how often a version that failed is tried again, its files unchanged", least=0),
    "load_retry_interval_micros": Flag(60_000_000, "microseconds between two tries", least=0),
    "file_system_poll_wait_seconds": Flag(1, "seconds between looks at the storage; 0 looks once, less never"),
    "ssl_config_file": Flag("", "text file with server_key, server_cert, custom_ca, client_verify; for both ports"),
    "tensorflow_session_parallelism": _threads("threads of the engine; 0 uses all processors allowed"),
    "tensorflow_intra_op_parallelism": _threads("the same"),
    "enable_serialization_as_tensor_content": Flag(False, "answer with tensor_content in place of typed values"),
    "enable_model_warmup": Flag(
        True, "before a new version answers, run its assets.extra/tf_serving_warmup_requests, or zeros without it"
    ),
    "num_request_iterations_for_warmup": Flag(0, "how often recorded requests are run; 0 is once", least=0),
    "monitoring_config_file": Flag("", "text file with prometheus_config { enable path }; metrics on the REST port"),
    "platform_config_file": Flag("", "text file for TensorFlow's platforms; it is read, and nothing here follows it"),
    "enable_grpc_healthcheck_service": Flag(True, "answer grpc.health.v1 on the gRPC port"),
    "use_alts_credentials": Flag(False, "Google's own transport security, which this server refuses to pretend"),
    "enable_signature_method_name_check": Flag(False, "hold classify and regress to signatures exported for them"),
    "version": Flag(False, "print the version and end"),
    "help": Flag(False, "print this and end"),
    "enable_batching": Flag(False, "join requests: what comes while a model is busy is the next batch"),
    "batching_parameters_file": Flag(
        "", "text file with TensorFlow Serving's batching parameters; needs --enable_batching"
    ),
    "enable_per_model_batching_parameters": Flag(
        False, "take them from batching_params.pbtxt beside a version's files"
    ),
    # ours
    "batch_mixes_clients": Flag(True, "let one batch hold requests of different client certificates"),
    "strict_flags": Flag(True, "refuse a command line with an unknown flag; false tells of it and goes on"),
    "model_format": Flag("plain", "plain, capsule or ctr; an attested manifest's Models says it instead"),
    "model_key_file": Flag("", "key of a sealed model; an attested server gets it from the coordinator"),
    "precision": Flag("f32", "arithmetic of floating-point layers: f32, f16, bf16, or int8 by recorded requests"),
    "engine": Flag(
        "auto", "openvino, onnxruntime or tensorflow; auto is OpenVINO, and the format's own for what it does not read"
    ),
    "device": Flag("cpu", "cpu, or gpu: OpenVINO's plugin for Intel's, never on an attested server"),
    "isolation": Flag(
        "auto",
        "none; probe: a process that may die loads each version first; process: it stays there. auto: probe, in SGX none",
    ),
    "threads": _threads("threads of the engine; 0 uses all processors allowed"),
    "staging_dir": Flag("/dev/shm", "tmpfs for sealed models of formats that are read from a path"),  # noqa: S108
    "host": Flag("", "address to listen on; empty listens on all"),
    "max_message_bytes": Flag(1 << 30, "largest request", least=1),
    "max_json_bytes": Flag(
        256 << 20, "largest JSON of a REST request; tensors as binary data are not counted", least=1
    ),
    "max_inflight_bytes": Flag(1 << 30, "what all requests of a port may hold together", least=1),
    "max_waiting_requests": Flag(1024, "requests that wait for one model version", least=1),
    "max_client_requests": Flag(0, "requests of one client certificate at once; 0 is no limit", least=0),
    "max_client_rate": Flag(0, "requests of one client certificate in a second; 0 is no limit", least=0),
    "attest_connections": Flag(False, "answer for evidence bound to the connection, on the REST port"),
    "edge": Flag("tacit", "what serves the gRPC port: tacit, or grpcio to fall back on"),
    "port_file": Flag(
        "", "write the ports as JSON into this file once both listen; ports given as -1 are chosen freely"
    ),
    # known, and without effect here
    "rest_api_num_threads": _accepted(0),
    "num_load_threads": _accepted(0),
    "num_unload_threads": _accepted(0),
    "flush_filesystem_caches": _accepted(True),
    "tensorflow_inter_op_parallelism": _accepted(0),
    "tensorflow_session_config_file": _accepted(""),
    "saved_model_tags": _accepted("serve"),
    "grpc_channel_arguments": _accepted(""),
    "grpc_max_threads": _accepted(0),
    "enable_profiler": _accepted(True),
    "per_process_gpu_memory_fraction": _accepted(0.0),
    "prefer_tflite_model": _accepted(False),
    "use_tflite_model": _accepted(False),  # its name before TensorFlow Serving 2.5
    "num_tflite_pools": _accepted(0),
    "num_tflite_interpreters_per_pool": _accepted(1),
    "remove_unused_fields_from_bundle_metagraph": _accepted(True),
    "xla_cpu_compilation_enabled": _accepted(False),
    "xla_gpu_compilation_enabled": _accepted(False),
    "mixed_precision": _accepted(""),
    "thread_pool_factory_config_file": _accepted(""),
    "skip_initialize_tpu": _accepted(False),
}

_TRUE, _FALSE = ("true", "1"), ("false", "0")


@dataclass(frozen=True, slots=True)
class Flags:
    """Values by flag name; names of those that were given and have no effect here, and what is unknown of the others."""

    values: Mapping[str, Value]
    accepted: Sequence[str] = field(default=())
    unknown: Sequence[str] = field(default=())

    def text(self, name: str) -> str:
        """A flag that is text."""
        return str(self.values[name])

    def number(self, name: str) -> int:
        """A flag that is a whole number."""
        return int(self.values[name])

    def switch(self, name: str) -> bool:
        """A flag that is on or off."""
        return bool(self.values[name])


def parse_flags(arguments: Sequence[str]) -> Flags:
    """The command line after the program's name.

    With `--strict_flags=false` what is unknown is told and left, as TensorFlow Serving does.

    Raises:
        UsageError: an unknown flag, or a value that does not fit.
    """
    values = {name: flag.default for name, flag in FLAGS.items()}
    accepted, unknown = [], []
    strict = not _is_lenient(arguments)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("-") or argument.strip("-") == "":
            if not strict:
                unknown.append(f"unexpected argument {argument!r}")
                continue
            raise UsageError(f"unexpected argument {argument!r}; flags look like --model_name=NAME")
        name, equals, given = argument.lstrip("-").partition("=")
        flag = FLAGS.get(name)
        if flag is None and strict:
            raise UsageError(_unknown(name))
        if flag is None:
            unknown.append(_unknown(name))
            continue
        if not equals:
            given = _next_value(name, flag, rest)
        values[name] = _convert(name, flag, given)
        if not flag.acts:
            accepted.append(name)
    return Flags(values, tuple(dict.fromkeys(accepted)), tuple(unknown))


def _is_lenient(arguments: Sequence[str]) -> bool:
    """What `--strict_flags` says, wherever it stands; the last of several counts, as of every flag."""
    lenient = False
    for argument, after in pairwise([*arguments, ""]):
        name, equals, given = argument.lstrip("-").partition("=")
        if name == "strict_flags" and argument.startswith("-"):
            lenient = given.lower() in _FALSE if equals else after.lower() == "false"
    return lenient


def usage() -> str:
    """What `--help` prints."""
    lines = ["tacit-serve: serves models to TensorFlow Serving's clients", ""]
    for name, flag in FLAGS.items():
        if flag.acts:
            lines.append(f"  --{name}={str(flag.default).lower() if isinstance(flag.default, bool) else flag.default}")
            lines.append(f"        {flag.help}")
    lines += ["", "Accepted without effect: " + ", ".join(name for name, flag in FLAGS.items() if not flag.acts)]
    return "\n".join(lines)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, FLAGS, n=1, cutoff=0.6)
    return f"unknown flag --{name}" + (f"; did you mean --{near[0]}?" if near else "; --help lists all of them")


def _next_value(name: str, flag: Flag, rest: list[str]) -> str:
    if isinstance(flag.default, bool):
        # A bare bool is true; a word after it is taken only if it can be nothing else.
        return rest.pop(0) if rest and rest[0].lower() in ("true", "false") else "true"
    if not rest or _is_flag(rest[0]):  # a variable of a script that was empty swallows no flag
        raise UsageError(f"--{name} needs a value: --{name}={flag.default or 'VALUE'}")
    return rest.pop(0)


def _is_flag(argument: str) -> bool:
    return argument.startswith("-") and argument.lstrip("-").partition("=")[0] in FLAGS


def _convert(name: str, flag: Flag, given: str) -> Value:
    default = flag.default
    if isinstance(default, bool):
        if given.lower() in _TRUE + _FALSE:
            return given.lower() in _TRUE
        raise UsageError(f"--{name}={given}: expected true or false")
    if isinstance(default, str):
        return given
    kind = "a whole number" if isinstance(default, int) else "a number"
    try:
        # Python also reads 85_00, and digits of other scripts.
        value = type(default)(given if given.isascii() and "_" not in given else "")
    except ValueError as exc:
        raise UsageError(f"--{name}={given}: expected {kind}") from exc
    if not flag.least <= value <= flag.most:
        end = f"to {flag.most}" if flag.most < math.inf else "or more"
        raise UsageError(f"--{name}={given}: expected {kind}, {flag.least} {end}")
    return value
