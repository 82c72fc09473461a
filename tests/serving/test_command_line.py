"""Flags and text files of TensorFlow Serving."""

from pathlib import Path

import pytest

from fakes.one_line_pem import one_line
from tacit.errors import FileInputError, UsageError
from tacit.pki import KeyPair
from tacit.programs.model_server.models import list_entries
from tacit.serving.repository import VersionPolicy
from tacit.serving.tfs.config import load_text, parse_model_config, parse_monitoring_config, parse_ssl_config
from tacit.serving.tfs.flags import FLAGS, parse_flags, usage


def test_flags_are_taken_with_equals_with_a_space_and_bare() -> None:
    flags = parse_flags(
        ["--port=9000", "--model_name", "m", "--enable_serialization_as_tensor_content", "-rest_api_port=1"]
    )
    assert (flags.number("port"), flags.text("model_name"), flags.number("rest_api_port")) == (9000, "m", 1)
    assert flags.switch("enable_serialization_as_tensor_content")


def test_a_bare_switch_leaves_the_next_flag_alone() -> None:
    flags = parse_flags(["--rest_api_enable_cors_support", "--port=1"])
    assert flags.switch("rest_api_enable_cors_support")
    assert not parse_flags(["--rest_api_enable_cors_support", "false"]).switch("rest_api_enable_cors_support")


def test_the_demos_own_command_line_is_taken() -> None:
    flags = parse_flags(
        [
            "--model_name=resnet50",
            "--model_base_path=/models/resnet50-v15-fp32",
            "--port=8500",
            "--ssl_config_file=ssl.cfg",
            "--file_system_poll_wait_seconds=10",
            "--enable_profiler=false",
            "--enable_batching",
        ]
    )
    assert flags.number("file_system_poll_wait_seconds") == 10
    assert flags.accepted == ("enable_profiler",)
    assert parse_flags(["--file_system_poll_wait_seconds=-1"]).number("file_system_poll_wait_seconds") == -1


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_takes_its_default(name: str) -> None:
    default = FLAGS[name].default
    given = str(default).lower() if isinstance(default, bool) else str(default)
    assert parse_flags([f"--{name}={given}"]).values[name] == default
    assert name in usage()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--model_nam=x"], "did you mean --model_name?"),
        (["--zzzzzz"], "unknown flag --zzzzzz"),
        (["--port=many"], "expected a whole number"),
        (["--port=85_00"], "expected a whole number"),
        (["--port=８５"], "expected a whole number"),
        (["--strict_flags=false", "--strict_flags=true", "--zzzzzz"], "unknown flag --zzzzzz"),
        (["--port=99999"], "expected a whole number, -1 to 65535"),
        (["--rest_api_port=-2"], "expected a whole number, -1 to 65535"),
        (["--threads=-1"], "expected a whole number, 0 to 4096"),
        (["--max_message_bytes=0"], "expected a whole number, 1 or more"),
        (["--port"], "needs a value"),
        (["--model_name", "--port=1"], "--model_name needs a value"),
        (["--model_base_path", "-port", "1"], "--model_base_path needs a value"),
        (["--enable_batching=perhaps"], "expected true or false"),
        (["model"], "unexpected argument"),
        (["--"], "unexpected argument"),
    ],
)
def test_a_wrong_command_line_is_refused_with_the_nearest_right_one(arguments: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_flags(arguments)


def test_the_demos_ssl_text_with_one_line_pem_is_read(server_identity: KeyPair) -> None:
    text = (
        f"server_key: '{one_line(server_identity.key_pem)}'\nserver_cert: '{one_line(server_identity.certificate_pem)}'\n"
        "client_verify: false\n"
    )
    credentials = parse_ssl_config(text)
    assert credentials.chain.startswith(b"-----BEGIN CERTIFICATE-----\n")
    assert credentials.client_roots is None
    assert "PRIVATE" not in repr(credentials)


@pytest.mark.parametrize("text", ["", "server_key: 'k'", "server_key: 'k' server_cert: 'c' client_verify: true"])
def test_an_ssl_text_that_lacks_something_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_ssl_config(text)


def test_a_broken_ssl_text_is_refused_without_quoting_a_key() -> None:
    with pytest.raises(UsageError) as refused:
        parse_ssl_config("server_key: SECRETKEY")
    assert "SECRETKEY" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_models_are_read_from_their_text() -> None:
    entries = parse_model_config(
        """model_config_list: {  # both spellings of a field, and pieces of a string
          config { name: "a" base_path: "/models" "/a" model_platform: "tensorflow"
            model_version_policy { specific { versions: 1, versions: 2 } }
            version_labels { key: "stable" value: 1 } },
          config { name: "d" base_path: "/d" model_type: TENSORFLOW
            logging_config { sampling_config { sampling_rate: 0.5 attributes: 1 } } },
          config { name: 'b', base_path: '/b', model_version_policy: { all {} } }
          config { name: "c" base_path: "/c" }
        }"""
    )
    assert [entry.name for entry in entries] == ["a", "d", "b", "c"]
    assert entries[0].base == Path("/models/a")
    assert entries[0].policy == VersionPolicy(specific=frozenset({1, 2}))
    assert entries[0].labels == {"stable": 1}
    assert [entry.policy.latest for entry in entries[1:]] == [1, 0, 1]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("nonsense", "Error parsing text-format tensorflow.serving.ModelServerConfig"),
        ("", "names no model"),
        ("custom_model_config {}", "custom_model_config is not read here"),
        ('model_config_list { config { base_path: "/a" } }', "has no name"),
        ('model_config_list { config { name: "a" base_path: "a" } }', "absolute path or URI; got base_path()=a"),
        (
            'model_config_list { config { name: "a" base_path: "/a" } config { name: "a" base_path: "/b" } }',
            "Illegal to list model a multiple times in config list",
        ),
    ],
)
def test_a_broken_models_text_is_refused(text: str, part: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_model_config(text)
    assert part in str(refused.value)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("metrics", "begins with /"),
        ("/v2/metrics", "what is below /v2 is"),
        ("/v2", "what is below /v2 is"),
        ("/metrics?a=1", "as it stands in an address"),
        ("/met rics", "as it stands in an address"),
        ("/métrics", "as it stands in an address"),
    ],
)
def test_a_path_at_which_no_metrics_can_be_is_refused(path: str, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse_monitoring_config(f'prometheus_config {{ enable: true path: "{path}" }}')


@pytest.mark.parametrize("address", ["file:///models/a", "FILE://localhost/models/a", "/models/a"])
def test_an_address_of_this_machines_files_is_a_path(address: str) -> None:
    (entry,) = parse_model_config(f'model_config_list {{ config {{ name: "a" base_path: "{address}" }} }}')
    assert entry.base == Path("/models/a")
    (named,) = list_entries(parse_flags([f"--model_base_path={address}"]))
    assert named.base == Path("/models/a")


@pytest.mark.parametrize("address", ["gs://bucket/a", "s3://bucket/a", "hdfs://host/a", "file://other/a"])
def test_an_address_elsewhere_is_refused_by_file_and_by_flag(address: str) -> None:
    for read in (
        lambda: parse_model_config(f'model_config_list {{ config {{ name: "a" base_path: "{address}" }} }}'),
        lambda: list_entries(parse_flags(["--model_name=a", f"--model_base_path={address}"])),
    ):
        with pytest.raises(UsageError, match=f"model a is at {address}, and this server reads files of its own"):
            read()


def test_the_recorded_models_text_is_read(shared_vectors: Path) -> None:
    (entry,) = parse_model_config(load_text(shared_vectors / "serving" / "model_config_sample.pbtxt"))
    assert entry.labels == {"canary": 2, "stable": 1}


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name in ("none", "bytes", "."):
        with pytest.raises(FileInputError):
            load_text(tmp_path / name)
