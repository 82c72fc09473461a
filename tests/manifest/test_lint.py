"""Each weak choice is found, and its better form is not."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.manifests import SIGNER_ID, UNIQUE_ID, minimal, raw
from tacit.errors import ManifestError
from tacit.manifest import parse_manifest
from tacit.manifest.review import Severity, compare_manifests, lint_manifest
from tacit.manifest.review import lint as rules
from tacit.manifest.review.literals import describe_key_material

HIGH, MEDIUM, LOW = Severity
KEY = {"key": {"Type": "symmetric-key", "Size": 256, "Shared": True}}
OWN = {"key": {"Type": "symmetric-key", "Size": 256}}
UPLOADED = {"key": {"Type": "plain", "UserDefined": True}}
RAW = {"Files": {"/k": "{{ raw .Secrets.key }}"}}
HEX_KEY = "9f" * 32
PRIVATE_PEM = "-----BEGIN PRIVATE KEY-----\nMIIBVgIBADANBgkqhkiG9w0BAQ\n-----END PRIVATE KEY-----\n"


def findings(rule: rules.Rule | None = None, **sections: Any) -> list[tuple[Severity, str]]:
    parsed = parse_manifest(raw(minimal(**sections)))
    found = rule(parsed.manifest) if rule else lint_manifest(parsed.manifest, leniencies=parsed.leniencies)
    return [(one.severity, one.path) for one in found]


def package(**fields: Any) -> dict[str, Any]:
    return {"Packages": {"server": fields}}


def marble(**fields: Any) -> dict[str, Any]:
    return {"Marbles": {"m": {"Package": "server"} | fields}}


def params(**parameters: Any) -> dict[str, Any]:
    return marble(Parameters=parameters)


def model(**fields: Any) -> dict[str, Any]:
    return {"Models": {"d": fields}}


def two_packages(secrets: dict[str, Any], **fields: Any) -> dict[str, Any]:
    one = {"Package": "server", "Parameters": RAW} | fields
    packages = {"server": {"UniqueID": UNIQUE_ID}, "other": {"UniqueID": SIGNER_ID}}
    return {"Packages": packages, "Marbles": {"m": one, "n": one | {"Package": "other"}}, "Secrets": secrets}


def users(
    *names: str, actions: tuple[str, ...] = ("WriteSecret",), kind: str = "Secrets", **config: Any
) -> dict[str, Any]:
    role = {"ResourceType": kind, "ResourceNames": ["key"] if kind == "Secrets" else [], "Actions": list(actions)}
    return {
        "Users": {name: {"Certificate": name, "Roles": ["r"]} for name in names},
        "Roles": {"r": role},
        "Secrets": UPLOADED,
        "Config": config,
    }


def recovery(count: int, threshold: int = 0) -> dict[str, Any]:
    return {"RecoveryKeys": {str(n): "PEM" for n in range(count)}, "Config": {"RecoveryThreshold": threshold}}


def port(**fields: Any) -> dict[str, Any]:
    return {"TLS": {"t": {"Incoming": [{"Port": "1"} | fields]}}}


SIGNED = {"SignerID": SIGNER_ID, "ProductID": 1, "SecurityVersion": 2}
UPDATE = {"actions": ("UpdateManifest",), "kind": "Manifest"}
CAPSULE = {"Format": "capsule", "ID": UNIQUE_ID, "Key": "key"}
# rule, what triggers it, its findings, and what does not
CASES: list[tuple[rules.Rule, dict[str, Any], list[tuple[Severity, str]], dict[str, Any]]] = [
    (rules.debug_packages, package(UniqueID=UNIQUE_ID, Debug=True), [(HIGH, "Packages.server.Debug")], {}),
    (rules.packages_without_software, package(Debug=True), [(HIGH, "Packages.server")], package(**SIGNED)),
    (rules.signers_alone, package(**SIGNED), [(MEDIUM, "Packages.server.SignerID")], {}),
    (
        rules.signers_alone,
        package(SignerID=SIGNER_ID, Debug=True),
        [
            (HIGH, "Packages.server.SignerID"),
            (MEDIUM, "Packages.server.SecurityVersion"),
            (MEDIUM, "Packages.server.SignerID"),
        ],
        package(UniqueID=UNIQUE_ID, TEE="sgx"),
    ),
    (
        rules.weaknesses,
        package(TEE="tdx", Measurements={"MRTD": "11" * 48}, AcceptedWeaknesses=["migratable"], TCBGraceDays=7),
        [
            (MEDIUM, "Packages.server.AcceptedWeaknesses"),
            (HIGH, "Packages.server.Measurements"),
            (LOW, "Packages.server.TCBGraceDays"),
        ],
        package(TEE="tdx", Measurements={"MRTD": "11" * 48, "RTMR1": "22" * 48}),
    ),
    (rules.tees, package(TEE="simulated-tdx"), [(LOW, "Packages.server.TEE")], package(TEE="tdx")),
    (rules.tees, package(TEE="simulated"), [(LOW, "Packages.server.TEE")], package(TEE="sgx")),
    (rules.tees, {}, [(LOW, "Packages.server.TEE")], package(TEE="sgx")),
    (
        rules.tcb_statuses,
        package(AcceptedTCBStatuses=["OutOfDate", "ConfigurationNeeded"]),
        [(MEDIUM, "Packages.server.AcceptedTCBStatuses"), (HIGH, "Packages.server.AcceptedTCBStatuses")],
        package(AcceptedTCBStatuses=["UpToDate", "SWHardeningNeeded"]),
    ),
    (
        rules.unlimited_activations,
        params(**RAW) | {"Secrets": KEY},
        [(MEDIUM, "Marbles.m.MaxActivations")],
        marble(Parameters=RAW, MaxActivations=1) | {"Secrets": KEY},
    ),
    (rules.unlimited_activations, params(**RAW) | {"Secrets": KEY}, [(MEDIUM, "Marbles.m.MaxActivations")], {}),
    (rules.unbounded_names, marble(), [(MEDIUM, "Marbles.m.AllowedNames")], marble(AllowedNames=[])),
    (
        rules.unbounded_names,
        marble(AllowedNames=["*.a.b"]),
        [(LOW, "Marbles.m.AllowedNames")],
        marble(AllowedNames=["a"]),
    ),
    (rules.lasting_leaves, marble(), [(LOW, "Marbles.m.LeafTTL")], marble(LeafTTL="24h")),
    (
        rules.unnamed_models,
        params(Argv=["/usr/bin/tensorflow_model_server"]),
        [(MEDIUM, "Marbles.m.Models")],
        params(Argv=["redis"]),
    ),
    (
        rules.unnamed_models,
        params(Argv=["serve", "--model_base_path=/m"]),
        [(MEDIUM, "Marbles.m.Models")],
        marble(Models=["d"], Parameters={"Argv": ["tacit-serve"]}),
    ),
    (
        rules.unnamed_clients,
        marble(Models=["d"]) | model(**CAPSULE),
        [(LOW, "Marbles.m.Models")],
        marble(Models=["d"]) | model(**CAPSULE) | {"Clients": {"c": {"TokenHash": "ab" * 32, "Models": ["d"]}}},
    ),
    (
        rules.unnamed_clients,
        marble(Models=["d"]) | model(**CAPSULE) | {"Clients": {"c": {"TokenHash": "ab" * 32, "Models": ["e"]}}},
        [(LOW, "Models.d")],
        marble(),
    ),
    (rules.unauthenticated_models, model(Format="ctr"), [(HIGH, "Models.d.Format")], model(**CAPSULE)),
    (rules.unauthenticated_models, model(Format="plain"), [(HIGH, "Models.d.Format")], model(**CAPSULE)),
    (rules.models_without_id, model(Format="capsule"), [(MEDIUM, "Models.d.ID")], model(**CAPSULE)),
    (rules.secrets_of_two_packages, two_packages(KEY), [(MEDIUM, "Secrets.key")], two_packages(OWN)),
    (
        rules.secrets_of_two_packages,
        two_packages(UPLOADED),
        [(MEDIUM, "Secrets.key")],
        params(**RAW) | {"Secrets": KEY},
    ),
    (rules.secrets_of_two_packages, two_packages(OWN, DisableSecretBinding=True), [(MEDIUM, "Secrets.key")], {}),
    (
        rules.written_keys,
        params(Files={"/conf/model_key": HEX_KEY}),
        [(HIGH, "Marbles.m.Parameters.Files./conf/model_key")],
        params(Files={"/conf/model_key": "{{ hex .Secrets.key }}", "/conf/digest": HEX_KEY}),
    ),
    (
        rules.written_keys,
        params(Argv=["p", "--key=" + HEX_KEY, "--token", HEX_KEY, "--port=8500"]),
        [(HIGH, "Marbles.m.Parameters.Argv[1]"), (HIGH, "Marbles.m.Parameters.Argv[3]")],
        params(Argv=["p", "--digest=" + HEX_KEY]),
    ),
    (
        rules.written_keys,
        {"Users": {"u": {"Certificate": PRIVATE_PEM}}, "RecoveryKeys": {"r": PRIVATE_PEM}},
        [(HIGH, "Users.u.Certificate"), (HIGH, "RecoveryKeys.r")],
        {"Users": {"u": {"Certificate": PRIVATE_PEM.replace("PRIVATE", "PUBLIC")}}},
    ),
    (
        rules.secrets_in_variables,
        params(Env={"K": "{{ hex .Secrets.key }}"}) | {"Secrets": KEY},
        [(MEDIUM, "Marbles.m.Parameters.Env.K")],
        params(Env={"K": "{{ .Secrets.key.Size }}"}, **RAW) | {"Secrets": KEY},
    ),
    (rules.unbound_secrets, marble(DisableSecretBinding=True), [(MEDIUM, "Marbles.m.DisableSecretBinding")], {}),
    (rules.weak_starts, marble(), [(LOW, "Marbles.m.Parameters.Argv")], params(Argv=["p", "--port=1"])),
    (
        rules.weak_starts,
        params(Argv=["/bin/sh", "--model_base_path=http://x", "s3://y", "--insecure", "{{ .Secrets }}"]),
        [(MEDIUM, f"Marbles.m.Parameters.Argv[{n}]") for n in (0, 1, 2, 3, 4)],
        params(Argv=["p", "--insecurity=/local", "sh"]),
    ),
    (
        rules.weak_starts,
        params(Argv=["p"], Env={"LD_PRELOAD": "x", "OE_SIMULATION": "1"}),
        [(MEDIUM, f"Marbles.m.Parameters.Env.{name}") for name in ("LD_PRELOAD", "OE_SIMULATION")],
        params(Argv=["p"], Env={"OMP_NUM_THREADS": "2"}),
    ),
    (rules.secrets_nobody_writes, {"Secrets": UPLOADED}, [(MEDIUM, "Secrets.key")], users("u")),
    (
        rules.writers_who_read,
        users("u", actions=("ReadSecret", "WriteSecret")),
        [(MEDIUM, "Users.u.Roles")],
        users("u"),
    ),
    (
        rules.single_handed_updates,
        users("u", **UPDATE),
        [(MEDIUM, "Config.UpdateThreshold")],
        users("u", "v", **UPDATE),
    ),
    (
        rules.single_handed_updates,
        users("u", "v", UpdateThreshold=1, **UPDATE),
        [(MEDIUM, "Config.UpdateThreshold")],
        users("u", "v", UpdateThreshold=2, **UPDATE),
    ),
    (rules.recovery, {}, [(MEDIUM, "RecoveryKeys")], recovery(3, 2)),
    (rules.recovery, package(TEE="tdx"), [(HIGH, "RecoveryKeys")], recovery(3, 2)),
    (rules.recovery, package(TEE="simulated-tdx"), [(HIGH, "RecoveryKeys")], package(TEE="tdx") | recovery(3, 2)),
    (rules.recovery, recovery(3, 1), [(HIGH, "Config.RecoveryThreshold")], recovery(3, 3)),
    (rules.recovery, recovery(1), [(LOW, "RecoveryKeys")], recovery(2, 2)),
    (rules.recovery, recovery(2), [(LOW, "Config.RecoveryThreshold")], recovery(2, 2)),
    (rules.sealing, {"Config": {"SealMode": "Disabled"}}, [(MEDIUM, "Config.SealMode")], {}),
    (
        rules.open_ports,
        port(Cert="key", DisableClientAuth=True),
        [(MEDIUM, "TLS.t.Incoming[0].DisableClientAuth")],
        port(),
    ),
]


@pytest.mark.parametrize(("rule", "weak", "expected", "better"), CASES, ids=lambda one: getattr(one, "__name__", ""))
def test_a_weak_choice_is_found_and_its_better_form_is_not(
    rule: rules.Rule, weak: dict[str, Any], expected: list[tuple[Severity, str]], better: dict[str, Any]
) -> None:
    assert findings(rule, **weak) == expected
    assert findings(rule, **better) == []
    assert set(expected) <= set(findings(**weak))


def test_every_rule_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(rules.RULES)


def test_the_worst_comes_first_and_every_finding_says_what_is_better() -> None:
    manifest = parse_manifest(raw(minimal(**package(Debug=True)))).manifest
    found = lint_manifest(manifest)
    assert [one.severity.rank for one in found] == sorted(one.severity.rank for one in found)
    assert all(one.what and one.why and one.better for one in found)


def test_t18_what_only_the_lenient_reading_accepts_is_a_finding() -> None:
    assert (MEDIUM, "Packages.server.debug") in findings(**package(UniqueID=UNIQUE_ID, debug=False))


def test_a_value_of_a_secret_is_a_finding() -> None:
    secret = {"Type": "plain", "UserDefined": True, "Private": "c2VjcmV0"}
    assert (HIGH, "Secrets.key.Private") in findings(Secrets={"key": secret})


def test_a_manifest_with_better_forms_alone_has_no_finding() -> None:
    sections = {
        **package(TEE="sgx", UniqueID=UNIQUE_ID),
        **marble(
            MaxActivations=1, AllowedNames=["a"], LeafTTL="24h", Models=["d"], Parameters={"Argv": ["tacit-serve"]}
        ),
        **model(**CAPSULE),
        "Clients": {"c": {"TokenHash": "ab" * 32, "Models": ["d"]}},
        **users("u"),
        **recovery(3, 2),
    }
    assert findings(**sections) == []


@pytest.mark.parametrize("size", [16, 24, 32, 64])
def test_keys_of_every_size_are_known_in_every_form(size: int) -> None:
    key = bytes((index * 37 + 200) % 256 for index in range(size))
    standard = base64.b64encode(key)
    for form in (key, key.hex().encode(), key.hex().upper().encode() + b"\n", standard, standard.rstrip(b"=")):
        if not form.startswith(b"/"):
            assert describe_key_material("MODEL_KEY", form), form
    assert describe_key_material("app.json", b'{"token": "' + key.hex().encode() + b'", "port": 1}')


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("MODEL_KEY", b"YOUR_KEY_HERE"),
        ("KEY_FILE", b"/dev/attestation/keys/tf"),
        ("KEY", b"{{ hex .Secrets.key }}"),
        (
            "ssl.cfg",
            b"server_key: '-----BEGIN PRIVATE KEY-----\\n{{ base64 .MarbleRun.MarbleCert.Private }}\\n-----END'",
        ),
        ("TOKEN", b"please-ask-the-administrator-for-a-token-abc"),
        ("digest", HEX_KEY.encode()),
        ("SECRET", b""),
    ],
)
def test_paths_templates_and_words_are_no_keys(name: str, data: bytes) -> None:
    assert describe_key_material(name, data) is None


@pytest.mark.parametrize("data", [PRIVATE_PEM.encode(), b"AKIA" + b"A" * 16, b"x ghp_" + b"a" * 36])
def test_private_keys_and_known_tokens_are_found_under_any_name(data: bytes) -> None:
    assert describe_key_material("notes.txt", data)


EXAMPLES = Path(__file__).parents[2] / "examples" / "resnet50"
# Those that stand for demos of others say Debug, and docs/manifest.md says so.
EXPLAINED = {
    "tf-server-manifest.json": ["Packages.tf-server.Debug"],
    "gramine-manifest.json": ["Packages.tf-server.Debug"],
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*manifest.json")), ids=lambda path: path.name)
def test_the_examples_have_no_high_finding_that_is_not_explained(path: Path) -> None:
    parsed = parse_manifest(path.read_bytes())
    found = lint_manifest(parsed.manifest, leniencies=parsed.leniencies)
    assert [one.path for one in found if one.severity is HIGH] == EXPLAINED.get(path.name, [])


CANARY = "c4na" * 16  # 32 bytes of hexadecimal digits, and so on: it looks like a key in every form
CANARIES = (CANARY, "ca" * 32, "Canary0" * 4 + "Cana")
NAMES = st.sampled_from(["key", "server", "m", "digits", "", "a-b", "x\n"])
CONTENT = st.sampled_from(
    [*CANARIES, *(f"{{{{ hex .Secrets.key }}}} token={one}" for one in CANARIES), "{{ . }}", "{{ bad"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | NAMES | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2),
)


def section(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.dictionaries(NAMES, st.fixed_dictionaries({}, optional=fields), max_size=3)


MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "Packages": section(
            {
                "TEE": st.sampled_from(["sgx", "simulated", "odd"]),
                "UniqueID": st.sampled_from([UNIQUE_ID, "no"]),
                "SignerID": st.just(SIGNER_ID),
                "SecurityVersion": st.integers(0, 3),
                "Debug": st.booleans(),
                "AcceptedTCBStatuses": st.lists(st.sampled_from(["OutOfDate", "odd"])),
                "AcceptedAdvisories": st.lists(NAMES, max_size=2),
            }
        ),
        "Marbles": section(
            {
                "Package": NAMES,
                "MaxActivations": st.integers(0, 3),
                "TLS": st.lists(NAMES, max_size=2),
                "Models": st.lists(NAMES, max_size=2),
                "LeafTTL": st.sampled_from(["1m", "24h", "1h30m5s"]),
                "AllowedNames": st.none() | st.lists(NAMES, max_size=2),
                "DisableSecretBinding": st.booleans(),
                "Parameters": st.fixed_dictionaries(
                    {},
                    optional={
                        "Files": st.dictionaries(NAMES, CONTENT, max_size=3),
                        "Env": st.dictionaries(NAMES, CONTENT, max_size=3),
                        "Argv": st.lists(CONTENT | CONTENT.map("--key={}".format) | st.just("--port=1"), max_size=3),
                    },
                ),
            }
        ),
        "Secrets": section(
            {
                "Type": st.sampled_from(["plain", "symmetric-key", "cert-rsa", "odd"]),
                "Size": st.integers(0, 3),
                "Shared": st.booleans(),
                "UserDefined": st.booleans(),
                "Private": st.sampled_from(CANARIES),
            }
        ),
        "Models": section({"Format": st.sampled_from(["capsule", "ctr", "odd"]), "Key": NAMES, "ID": st.just("no")}),
        "Users": section({"Certificate": CONTENT, "Roles": st.lists(NAMES, max_size=2)}),
        "Roles": section(
            {
                "ResourceType": st.sampled_from(["Secrets", "Manifest", "odd"]),
                "ResourceNames": st.lists(NAMES, max_size=2),
                "Actions": st.lists(
                    st.sampled_from(["ReadSecret", "writesecret", "UpdateManifest", "odd"]), max_size=3
                ),
            }
        ),
        "TLS": section(
            {
                "Incoming": st.lists(
                    st.fixed_dictionaries({"Port": NAMES, "Cert": NAMES, "DisableClientAuth": st.booleans()}),
                    max_size=2,
                )
            }
        ),
        "RecoveryKeys": st.dictionaries(NAMES, CONTENT, max_size=3),
        "Config": st.fixed_dictionaries({"UpdateThreshold": st.integers(0, 3), "RecoveryThreshold": st.integers(0, 3)}),
        "unknown": JSON,
    },
)


@settings(max_examples=150)
@given(MANIFESTS, MANIFESTS)
def test_t24_no_manifest_stops_a_review_and_no_text_repeats_a_content(old: Any, new: Any) -> None:
    try:
        parsed = [parse_manifest(json.dumps(one).encode()) for one in (old, new)]
    except ManifestError:
        return  # what cannot be read at all is not reviewed
    said = repr(compare_manifests(parsed[0].manifest, parsed[1].manifest))
    for one in parsed:
        said += repr(lint_manifest(one.manifest, leniencies=one.leniencies))
        assert compare_manifests(one.manifest, one.manifest) == ()
    assert not any(canary in said for canary in CANARIES)
