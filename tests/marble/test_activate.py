from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from tacit.errors import ActivationError, InputError, UsageError
from tacit.marble.activate import (
    Activation,
    Settings,
    appraised_tee,
    build_request,
    choose_command,
    compose_environment,
    find_base_path,
    is_cut_uuid,
    make_uuid,
    open_encrypted,
    parse_response,
    parse_settings,
    parse_uuid,
)
from tacit.wire.pb.marble_pb2 import ActivationRequest, ActivationResponse, Parameters

UUID = "0d8d9e3a-5a7c-4a94-9c1e-0e0b7a1c2d3e"
NOW = datetime(2026, 11, 24, tzinfo=UTC)
CANARY = b"CANARY-4b1f"


def response(
    *, files: Mapping[str, bytes] | None = None, env: Mapping[str, bytes] | None = None, argv: Sequence[str] = ()
) -> bytes:
    return ActivationResponse(parameters=Parameters(files=files, env=env, argv=argv)).SerializeToString()


def chain(unit: str | None) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, UUID)]
    if unit is not None:
        attributes.append(x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    name = x509.Name(attributes)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def compose(activation: Activation, inherited: Mapping[str, str], tee: str = "simulated") -> dict[bytes, bytes]:
    return compose_environment(
        activation, inherited, tee=tee, programs=Path("/opt/tacit/bin"), memory=Path("/dev/shm/tacit-x")
    )


# ---- settings


def test_settings_have_marblerun_s_defaults() -> None:
    assert parse_settings({"EDG_MARBLE_TYPE": "tf-server"}, Path("/w")) == Settings(
        coordinator="localhost:2001",
        coordinator_certificate=None,
        marble_type="tf-server",
        names=("localhost",),
        coordinator_package=None,
        coordinator_api=None,
        trust_folder=Path("/w/uuid.trust"),
        uuid_file=Path("/w/uuid"),
        decrypt_model=False,
        encrypted_model=Path("/encrypted/saved_model.pb.encrypted"),
        memory=Path("/dev/shm"),
        patience=60.0,
    )


def test_settings_come_from_the_variables_of_the_demo() -> None:
    settings = parse_settings(
        {
            "EDG_MARBLE_TYPE": "tf-server",
            "EDG_MARBLE_COORDINATOR_ADDR": "grpc.tf-serving.service.com:2001",
            "EDG_MARBLE_DNS_NAMES": "grpc.tf-serving.service.com, 10.0.0.1",
            "EDG_UUID_FILE": "ids/u",
            "EDG_DECRYPT_MODEL": "1",
            "EDG_CWD": "/data",
            "TACIT_ACTIVATION_TIMEOUT": "2.5",
        },
        Path("/w"),
    )
    assert settings.coordinator == "grpc.tf-serving.service.com:2001"
    assert settings.names == ("grpc.tf-serving.service.com", "10.0.0.1")
    assert settings.uuid_file == Path("/data/ids/u")
    assert settings.decrypt_model
    assert settings.patience == 2.5


def test_a_marble_without_a_type_is_refused_in_marblerun_s_words() -> None:
    with pytest.raises(UsageError, match=r"^environment variable not set: EDG_MARBLE_TYPE$"):
        parse_settings({"EDG_MARBLE_TYPE": ""}, Path("/w"))


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", "1e9"])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="TACIT_ACTIVATION_TIMEOUT"):
        parse_settings({"EDG_MARBLE_TYPE": "a", "TACIT_ACTIVATION_TIMEOUT": text}, Path("/w"))


# ---- the id


@pytest.mark.parametrize("around", ["{}", "{}\n", "{}\r\n", " {}\t", "\ufeff{}\n", "{}\0\0"])
def test_an_id_is_36_characters_whatever_an_editor_put_around_it(around: str) -> None:
    assert parse_uuid(around.format(UUID)) == UUID


@pytest.mark.parametrize(
    "text", [UUID.upper(), f"{{{UUID}}}", f"urn:uuid:{UUID}", f"URN:UUID:{UUID.upper()}", UUID.replace("-", "")]
)
def test_an_id_in_another_of_its_forms_is_the_same_id(text: str) -> None:
    assert parse_uuid(text + "\n") == UUID


def test_anything_else_is_no_id() -> None:
    with pytest.raises(InputError, match=r"^failed to unmarshal UUID: invalid UUID length: 37$"):
        parse_uuid(UUID + "0")
    with pytest.raises(InputError, match="invalid UUID format"):
        parse_uuid(UUID.replace("-", "") + "----")
    with pytest.raises(InputError, match="invalid UUID format"):
        parse_uuid("z" * 36)


def test_the_beginning_of_an_id_is_told_from_something_else() -> None:
    for size in range(36):
        assert is_cut_uuid(UUID[:size])
    assert is_cut_uuid("\0" * 36)
    for text in (UUID, "no uuid", UUID[:20] + "x", UUID[1:20]):
        assert not is_cut_uuid(text)


def test_a_new_id_is_a_random_one_of_version_4() -> None:
    made = make_uuid(bytes(range(16)))
    assert parse_uuid(made) == made
    assert made[14] == "4"


# ---- request and response


def test_a_request_carries_what_marblerun_s_does() -> None:
    raw = build_request(evidence=b"quote", csr=b"csr", marble_type="tf-server", uuid=UUID)
    assert ActivationRequest.FromString(raw) == ActivationRequest(
        quote=b"quote", csr=b"csr", marble_type="tf-server", uuid=UUID
    )


def test_a_recorded_answer_is_read(shared_vectors: Path) -> None:
    folder = shared_vectors / "marblerun" / "activation"
    activation = parse_response((folder / "typical-ok.resp.pb").read_bytes())
    assert activation.files["/conf/mesh.crt"].startswith(b"-----BEGIN CERTIFICATE-----")
    assert activation.keys == {}
    assert activation.mark == ""
    assert {"MARBLE_PREDEFINED_ROOT_CA", "MARBLE_PREDEFINED_PRIVATE_KEY"} <= set(activation.env)


def test_recorded_transparent_tls_is_refused_in_marblerun_s_words(shared_vectors: Path) -> None:
    folder = shared_vectors / "marblerun" / "activation"
    with pytest.raises(ActivationError, match=r"^TTLS configured, but Marble runtime doesn't support TTLS$"):
        parse_response((folder / "tls-both.resp.pb").read_bytes())


def test_model_keys_are_told_apart_from_files() -> None:
    activation = parse_response(response(files={"/tacit/keys/digits": b"k" * 32, "ssl.cfg": b"x"}))
    assert activation.keys == {"digits": b"k" * 32}
    assert activation.files == {"ssl.cfg": b"x"}


@pytest.mark.parametrize("path", ["/tacit/keys/../../etc/x", "/tacit/keys/a/b", "/tacit/keys/..", "/tacit/keys/."])
def test_a_model_key_cannot_leave_its_folder(path: str) -> None:
    with pytest.raises(ActivationError):
        parse_response(response(files={path: b"k"}))


@pytest.mark.parametrize("path", ["", "a/", "/tacit/keys/", "a\0b", "..", "a/.."])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(ActivationError, match="path of a file"):
        parse_response(response(files={path: b""}))


@pytest.mark.parametrize(("name", "value"), [("", b"x"), ("A=B", b"x"), ("A\0", b"x"), ("A", b"x\0")])
def test_a_variable_that_cannot_be_is_refused(name: str, value: bytes) -> None:
    with pytest.raises(ActivationError, match="Env"):
        parse_response(response(env={name: value}))


def test_an_argument_with_a_null_character_is_refused() -> None:
    with pytest.raises(ActivationError, match="Argv"):
        parse_response(response(argv=["a\0b"]))


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\x05a", b"<html>"])
def test_bytes_that_are_no_answer_are_refused(raw: bytes) -> None:
    with pytest.raises(ActivationError, match="not an activation response"):
        parse_response(raw)


def test_a_chain_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(ActivationError, match="certificate chain"):
        parse_response(response(env={"MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": b"no pem"}))


def test_gramine_s_keys_are_placed_before_all_else() -> None:
    files = {"/a": b"", "/dev/attestation/keys/default": b"k", "/b": b""}
    assert next(iter(parse_response(response(files=files)).files)) == "/dev/attestation/keys/default"


def test_t24_an_activation_s_repr_is_silent() -> None:
    activation = parse_response(response(files={"/tacit/keys/m": CANARY, "f": CANARY}, env={"E": CANARY}))
    assert "CANARY" not in repr(activation)


# ---- which TEE


@pytest.mark.parametrize(
    ("own", "unit", "expected"),
    [
        ("simulated", "SIMULATED", "simulated"),
        ("simulated", None, "simulated"),
        ("simulated", "UNATTESTED", "unattested"),
        ("unattested", "UNATTESTED", "unattested"),
        ("unattested", None, "unattested"),
    ],
)
def test_t07_a_command_is_told_what_was_appraised_and_no_more(own: str, unit: str | None, expected: str) -> None:
    activation = parse_response(response(env={"MARBLE_PREDEFINED_MARBLE_CERTIFICATE_CHAIN": chain(unit)}))
    assert appraised_tee(own, activation) == expected


# ---- environment


DANGEROUS = [
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONHOME",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "SSLKEYLOGFILE",
    "OPENSSL_CONF",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "https_proxy",
    "HF_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LOCPATH",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "OV_CACHE_DIR",
    "TACIT_KEY_DIR",
    "TACIT_TEE",
    "TACIT_MODELS",
    "TACIT_CLIENTS",
    "MALLOC_CONF",
    "BASH_ENV",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "PATH",
    "HOME",
    "EDG_OTHER",
]


@pytest.mark.parametrize("name", DANGEROUS)
def test_t23_what_the_host_sets_does_not_reach_an_attested_command(name: str) -> None:
    composed = compose(parse_response(response()), {name: "/evil"})
    assert b"/evil" not in b"\0".join(composed.values())


@pytest.mark.parametrize("name", ["LD_PRELOAD", "PYTHONPATH", "SSL_CERT_FILE", "PATH", "HOME"])
def test_t23_what_the_manifest_gives_does(name: str) -> None:
    composed = compose(parse_response(response(env={name: b"/from/manifest"})), {name: "/evil"})
    assert composed[name.encode()] == b"/from/manifest"


def test_an_attested_command_keeps_its_place_in_the_mesh_and_its_language() -> None:
    kept = {"EDG_MARBLE_TYPE": "tf", "EDG_MARBLE_DNS_NAMES": "a,b", "LANG": "de_DE.UTF-8", "TZ": "Europe/Berlin"}
    composed = compose(parse_response(response()), kept)
    assert {name.decode(): value.decode() for name, value in composed.items()} == kept | {
        "PATH": "/opt/tacit/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/dev/shm/tacit-x/home",
        "TACIT_TEE": "simulated",
    }


@pytest.mark.parametrize(
    ("name", "value"), [("TZ", "/etc/shadow"), ("TZ", ":/x"), ("TZ", "a/../b"), ("LANG", "../x"), ("LC_ALL", "/x")]
)
def test_t23_a_harmless_name_with_a_path_in_it_is_dropped(name: str, value: str) -> None:
    assert name.encode() not in compose(parse_response(response()), {name: value})


def test_an_unattested_command_has_the_host_s_environment_under_the_manifest_s() -> None:
    composed = compose(
        parse_response(response(env={"A": b"manifest", "EMPTY": b""})),
        {"A": "host", "B": "host", "ODD": "\udcff"},
        tee="unattested",
    )
    assert composed == {b"A": b"manifest", b"B": b"host", b"ODD": b"\xff", b"EMPTY": b"", b"TACIT_TEE": b"unattested"}


@pytest.mark.parametrize("tee", ["simulated", "unattested"])
def test_t07_nobody_but_the_appraisal_says_which_tee(tee: str) -> None:
    activation = parse_response(response(env={"TACIT_TEE": b"sgx", "TACIT_KEY_DIR": b"/evil"}))
    composed = compose(activation, {"TACIT_TEE": "sgx", "TACIT_KEY_DIR": "/evil"}, tee=tee)
    assert composed[b"TACIT_TEE"] == tee.encode()
    assert b"TACIT_KEY_DIR" not in composed


def test_keys_are_pointed_to_and_not_in_the_environment() -> None:
    composed = compose(parse_response(response(files={"/tacit/keys/m": CANARY})), {})
    assert composed[b"TACIT_KEY_DIR"] == b"/dev/shm/tacit-x/keys"
    assert CANARY not in b"\0".join(composed.values())


# ---- command


def test_the_manifest_s_argv_comes_before_the_command_line() -> None:
    assert choose_command(parse_response(response(argv=["a", "b"])), ["c"], tee="simulated") == ("a", "b")
    assert choose_command(parse_response(response()), ["c", "d"], tee="unattested") == ("c", "d")
    assert choose_command(parse_response(response()), [], tee="simulated") == ("./marble",)


def test_t59_an_attested_marble_takes_no_command_from_the_host() -> None:
    with pytest.raises(ActivationError, match=r"'sh' of the command line is the host's choice"):
        choose_command(parse_response(response()), ["sh"], tee="simulated")


@pytest.mark.parametrize(
    "argv",
    [
        ["server", "--model_base_path=/models/r"],
        ["server", "--port=1", "--model_base_path", "/models/r"],
        ["server", "-model_base_path=/models/r"],
    ],
)
def test_the_base_path_is_found_in_each_spelling(argv: list[str]) -> None:
    assert find_base_path(argv) == Path("/models/r")


@pytest.mark.parametrize(
    "argv",
    [["server"], ["server", "--model_base_path"], ["server", "--model_base_path="], ["server", "model_base_path=/x"]],
)
def test_a_missing_base_path_is_refused_in_the_original_s_words(argv: list[str]) -> None:
    with pytest.raises(UsageError, match=r"^missing required flag \[--model_base_path\]$"):
        find_base_path(argv)


def test_our_own_server_opens_the_demo_s_model_itself() -> None:
    argv = ("tacit-serve", "--model_base_path=/models/r")
    assert open_encrypted(argv, Path("/encrypted/saved_model.pb.encrypted"), Path("model_key")) == (
        "tacit-serve",
        "--model_base_path=/models/r",
        "--model_base_path=/encrypted/saved_model.pb.encrypted",
        "--model_format=ctr",
        "--model_key_file=model_key",
    )


def test_a_format_that_the_manifest_says_is_left_alone() -> None:
    argv = ("tacit-serve", "--model_base_path=/models/r", "--model_format=capsule")
    assert open_encrypted(argv, Path("/encrypted/saved_model.pb.encrypted"), Path("model_key")) == argv
