"""Which choices in this manifest are weak, and what is the better form?

Each rule is a generator of findings over a manifest, listed in `RULES`; a rule speaks of one choice. A finding is high
where somebody who should not may read or alter what is protected, medium where one more mistake leads there or data may
be lost, low where a person should know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from tacit.evidence.claims import Tee
from tacit.manifest.access import (
    READ_SECRET,
    UPDATE_MANIFEST,
    WRITE_SECRET,
    holders,
    permissions,
    revealed_secrets,
    users_who_may,
    ways_to_secrets,
)
from tacit.manifest.model import Manifest
from tacit.manifest.review.literals import describe_key_material
from tacit.manifest.review.startup import weak_arguments, weak_variables


class Severity(StrEnum):
    """How bad, the worst first."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Severity).index(self)


HIGH, MEDIUM, LOW = Severity


@dataclass(frozen=True, slots=True)
class Finding:
    """One weak choice: where it stands, what it is, why that is weak, and the better form."""

    severity: Severity
    path: str
    what: str
    why: str
    better: str


Rule = Callable[[Manifest], Iterator[Finding]]

_WEAK_STATUSES = {
    "NotRated": HIGH,
    "OutOfDate": HIGH,
    "OutOfDateConfigurationNeeded": HIGH,
    "ConfigurationNeeded": MEDIUM,
    "ConfigurationAndSWHardeningNeeded": MEDIUM,
}
_WEAKNESSES = {
    "sept-ve-off": "the host can take pages from the TD while it runs, and it may not notice",
    "migratable": "a migration TD of the host's may move it, memory and all",
    "profiling": "the host counts what happens inside, which tells about the data",
    "service-td": "another TD, which the host chose, may read and change its state",
    "module-downgraded": "an older TDX module runs than the one that started it",
    "migration-agent": "an agent of the host's may move it, memory and all",
    "vmpl-1": "a paravisor below it, of which this measurement may not speak, reads and changes its memory",
    "vmpl-2": "software below it, of which this measurement may not speak, reads and changes its memory",
    "vmpl-3": "software below it, of which this measurement may not speak, reads and changes its memory",
    "revocation-unchecked": "a chip whose key is known to be stolen still passes",
}
_SERVERS = ("tacit-serve", "tensorflow_model_server")


def lint_manifest(manifest: Manifest, *, leniencies: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """Every weak choice, the worst first. `leniencies` are what the lenient reading had to tolerate."""
    findings = [*_lenient(leniencies), *(finding for rule in RULES for finding in rule(manifest))]
    return tuple(sorted(findings, key=lambda one: (one.severity.rank, one.path)))


def _lenient(leniencies: tuple[str, ...]) -> Iterator[Finding]:
    why = (
        "readers that are stricter, or other, understand this manifest differently from the coordinator (or refuse it)"
    )
    for leniency in leniencies:
        path, _, what = leniency.partition(": ")
        path = path.removeprefix("$.")
        if path.endswith((".Private", ".Public")):
            # The value itself is not read, but everybody who can read the manifest has it.
            yield Finding(
                HIGH, path, "a secret's value is written in the manifest", _WRITTEN, "upload it with `tacit secret set`"
            )
        else:
            yield Finding(MEDIUM, path, what, why, "what `tacit manifest check` accepts")


def debug_packages(manifest: Manifest) -> Iterator[Finding]:
    """Debug enclaves protect nothing from their host."""
    for name, package in manifest.packages.items():
        if package.debug:
            why = "the host reads and alters the memory of a debug enclave, and so every secret of its marbles"
            yield Finding(
                HIGH,
                f"Packages.{name}.Debug",
                "Debug is true",
                why,
                "leave Debug out, and build the enclave without it",
            )


def packages_without_software(manifest: Manifest) -> Iterator[Finding]:
    """A package that names no software."""
    for name, package in manifest.packages.items():
        if package.unique_id is None and package.signer_id is None and not package.measurements:
            why = "it allows nothing here, and with Debug any program at all where MarbleRun's coordinator reads it"
            yield Finding(
                HIGH, f"Packages.{name}", "names neither UniqueID nor SignerID", why, '"UniqueID": 64 hex digits'
            )


def signers_alone(manifest: Manifest) -> Iterator[Finding]:
    """A signer stands for every program that it ever signs."""
    for name, package in manifest.packages.items():
        if package.signer_id is None or package.unique_id is not None:
            continue
        path = f"Packages.{name}"
        if package.product_id is None:
            why = "every program of this signer fits, whatever it does"
            yield Finding(
                HIGH, f"{path}.SignerID", "SignerID without ProductID", why, "UniqueID alone, or ProductID too"
            )
        if not package.security_version:
            why = "old versions fit, also those whose flaws are known"
            better = '"SecurityVersion" of the oldest version that is still good, raised with each fix'
            yield Finding(MEDIUM, f"{path}.SecurityVersion", "no lowest security version", why, better)
        why = "whoever holds the signing key can make another program that gets the same secrets"
        better = '"UniqueID" alone: this very program (`tacit package-info` prints it)'
        yield Finding(MEDIUM, f"{path}.SignerID", "the software is named by its signer alone", why, better)


def tees(manifest: Manifest) -> Iterator[Finding]:
    """A simulated TEE, or one that is not named."""
    for name, package in manifest.packages.items():
        path = f"Packages.{name}.TEE"
        if package.tee in tuple(Tee) and Tee(package.tee).is_simulated:
            why = "a simulated TEE protects nothing: it is for trying things out"
            yield Finding(
                LOW, path, "the TEE is simulated", why, f'"TEE": "{Tee(package.tee).layout}" on real hardware'
            )
        elif package.tee is None:
            yield Finding(LOW, path, "no TEE is named", "that means SGX, which a reader has to know", '"TEE": "sgx"')


def weaknesses(manifest: Manifest) -> Iterator[Finding]:
    """What evidence may say against itself, and TDs of which only the firmware is measured."""
    for name, package in manifest.packages.items():
        path = f"Packages.{name}"
        for weakness in package.accepted_weaknesses:
            better = "leave it out, unless this platform cannot do otherwise and it was thought through"
            yield Finding(
                MEDIUM, f"{path}.AcceptedWeaknesses", f"accepts {weakness}", _WEAKNESSES.get(weakness, ""), better
            )
        if "MRTD" in package.measurements and not {"RTMR1", "RTMR2"} & set(package.measurements):
            why = "MRTD measures firmware alone; whatever kernel and program it starts gets the secrets"
            yield Finding(
                HIGH, f"{path}.Measurements", "names no RTMR1 or RTMR2", why, "the RTMRs of kernel and program"
            )
        if package.tcb_grace_days:
            why = "for so long platforms with holes that are known and mended elsewhere get the secrets"
            better = "as few days as updates need"
            what = f"forgives {package.tcb_grace_days} days of being out of date"
            yield Finding(LOW, f"{path}.TCBGraceDays", what, why, better)


def tcb_statuses(manifest: Manifest) -> Iterator[Finding]:
    """Platforms with known holes."""
    for name, package in manifest.packages.items():
        for status in sorted(set(package.accepted_tcb_statuses or ()) & set(_WEAK_STATUSES)):
            open_ended = ", with any advisory" if package.accepted_advisories is None else ""
            why = "platforms with holes that are known and mended elsewhere get the secrets too"
            better = "leave it out; if it has to be, list the AcceptedAdvisories that were looked into"
            path = f"Packages.{name}.AcceptedTCBStatuses"
            yield Finding(_WEAK_STATUSES[status], path, f"accepts {status}{open_ended}", why, better)


def unlimited_activations(manifest: Manifest) -> Iterator[Finding]:
    """Copies of a marble without number."""
    for name, marble in manifest.marbles.items():
        if marble.max_activations == 0 and ways_to_secrets(manifest, marble):
            why = "the host may start any number of copies, each with the secrets, and nobody notices one more"
            better = '"MaxActivations": as many starts as are planned'
            yield Finding(MEDIUM, f"Marbles.{name}.MaxActivations", "activations without limit", why, better)


def unbounded_names(manifest: Manifest) -> Iterator[Finding]:
    """Certificates in any name."""
    for name, marble in manifest.marbles.items():
        path = f"Marbles.{name}.AllowedNames"
        better = '"AllowedNames": the names by which its clients reach it'
        if marble.allowed_names is None:
            why = "the host chooses the names in its certificate, and so may let it pass for any other marble"
            yield Finding(MEDIUM, path, "missing", why, better)
        elif any(one.startswith("*.") for one in marble.allowed_names):
            why = "it may pass for every host of that domain"
            yield Finding(LOW, path, "a name with a wildcard", why, better)


def lasting_leaves(manifest: Manifest) -> Iterator[Finding]:
    """Certificates that outlive what was attested."""
    for name, marble in manifest.marbles.items():
        if marble.leaf_ttl is None:
            why = "its certificate lives as long as the mesh, so a stolen key is of use until the next update"
            better = '"LeafTTL": such as "24h", where the server is started anew within that time'
            yield Finding(LOW, f"Marbles.{name}.LeafTTL", "missing", why, better)


def unnamed_models(manifest: Manifest) -> Iterator[Finding]:
    """A model server that loads whatever lies in its storage."""
    for name, marble in manifest.marbles.items():
        argv = marble.parameters.argv
        serves = any(one.rpartition("/")[2] in _SERVERS or one.startswith("--model_base_path") for one in argv)
        if serves and not marble.models:
            why = "nothing says which model this server may load, so the host chooses"
            better = '"Models": names of the section Models, each with the ID of its capsule'
            yield Finding(MEDIUM, f"Marbles.{name}.Models", "a model server without Models", why, better)


def unnamed_clients(manifest: Manifest) -> Iterator[Finding]:
    """Model servers that answer whoever reaches them."""
    named = {model for client in manifest.clients.values() for model in client.models}
    for name, marble in manifest.marbles.items():
        if marble.models and not named:
            why = "whoever reaches this server may call its models"
            better = '"Clients": who may, by certificate or token, with the names of the models'
            yield Finding(LOW, f"Marbles.{name}.Models", "models without Clients", why, better)
        for model in sorted(set(marble.models) - named) if named else ():
            why = "clients are named for other models, so nobody may call this one"
            better = f'a client with "{model}" in its Models'
            yield Finding(LOW, f"Models.{model}", "a model without a client", why, better)


def unauthenticated_models(manifest: Manifest) -> Iterator[Finding]:
    """Formats in which a change goes unnoticed."""
    reading = {"ctr": "the host flips bits of the model at will", "plain": "the host reads and replaces the model"}
    for name, model in manifest.models.items():
        if model.format in reading:
            why = f"{reading[model.format]}, and nobody notices"
            better = '"Format": "capsule" (`tacit model encrypt`)'
            yield Finding(HIGH, f"Models.{name}.Format", f"format {model.format} is not authenticated", why, better)


def models_without_id(manifest: Manifest) -> Iterator[Finding]:
    """Any capsule under a key."""
    for name, model in manifest.models.items():
        if model.format == "capsule" and not model.model_id:
            given = "no ID" if model.model_id is None else "an ID that is no digest"
            what = given if model.min_version else f"{given}, and no MinVersion"
            old = "" if model.min_version else ", also an old one with known flaws"
            why = f"any capsule under this key is loaded{old}"
            better = '"ID": the capsule\'s id (`tacit model inspect` prints it)'
            yield Finding(MEDIUM, f"Models.{name}.ID", what, why, better)


def secrets_of_two_packages(manifest: Manifest) -> Iterator[Finding]:
    """One secret, several programs that can read it."""
    for secret, marbles in holders(manifest).items():
        rule = manifest.secrets.get(secret)
        # Without binding to the name, equal UUIDs give equal values, and the host chooses the UUIDs.
        unbound = all(manifest.marbles[one].disable_secret_binding for one in marbles)
        packages = sorted({manifest.marbles[one].package for one in marbles})
        if rule and len(packages) > 1 and (rule.shared or rule.user_defined or unbound):
            why = "a flaw in any of them gives it away"
            better = "one package per secret; what two programs share, say with a certificate"
            yield Finding(MEDIUM, f"Secrets.{secret}", f"packages {', '.join(packages)} can all read it", why, better)


_WRITTEN = "everybody who can reach the coordinator can read the manifest"


def written_keys(manifest: Manifest) -> Iterator[Finding]:
    """Keys in files, variables, arguments and certificates' texts."""
    for path, name, data in _literals(manifest):
        if kind := describe_key_material(name, data):
            better = "a secret with UserDefined, uploaded with `tacit secret set`, and a template that names it"
            yield Finding(HIGH, path, f"{kind} seems to be written in the manifest", _WRITTEN, better)


def _literals(manifest: Manifest) -> Iterator[tuple[str, str, bytes]]:
    """(path, name, bytes) of everything that a person writes freely."""
    for marble_name, marble in manifest.marbles.items():
        path = f"Marbles.{marble_name}.Parameters"
        for kind, contents in (("Files", marble.parameters.files), ("Env", marble.parameters.env)):
            for name, content in contents.items():
                yield f"{path}.{kind}.{name}", name.rpartition("/")[2], content.data
        previous = ""
        for index, argument in enumerate(marble.parameters.argv):
            flag, assigned, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
            # `--key=VALUE`, or `--key VALUE` in two arguments.
            named = flag if assigned else previous if previous.startswith("-") else ""
            yield f"{path}.Argv[{index}]", named, value.encode("utf-8", "replace")
            previous = argument
    for name, user in manifest.users.items():
        yield f"Users.{name}.Certificate", "", user.pem.encode("utf-8", "replace")
    for name, pem in manifest.recovery_keys.items():
        yield f"RecoveryKeys.{name}", "", pem.encode("utf-8", "replace")


def secrets_in_variables(manifest: Manifest) -> Iterator[Finding]:
    """Variables are passed on to every child and stand in crash reports."""
    for name, marble in manifest.marbles.items():
        for variable, content in marble.parameters.env.items():
            if named := revealed_secrets(manifest, content):
                what = f"a variable holds {_listed(named)}"
                why = "variables are passed on to every child process and end up in crash reports and diagnostics"
                path = f"Marbles.{name}.Parameters.Env.{variable}"
                yield Finding(MEDIUM, path, what, why, "a file under Parameters.Files, read once")


def unbound_secrets(manifest: Manifest) -> Iterator[Finding]:
    """Keys that do not depend on the marble's name."""
    for name, marble in manifest.marbles.items():
        if marble.disable_secret_binding:
            why = "another type of marble that says so too gets the same unshared keys, if the host gives it the same UUID"
            yield Finding(
                MEDIUM, f"Marbles.{name}.DisableSecretBinding", "unshared keys are not bound to it", why, "leave it out"
            )


def weak_starts(manifest: Manifest) -> Iterator[Finding]:
    """Arguments and variables that open what the rest closes."""
    for name, marble in manifest.marbles.items():
        path = f"Marbles.{name}.Parameters"
        if not marble.parameters.argv:
            why = "with MarbleRun's premain the host chooses the command and its arguments"
            yield Finding(LOW, f"{path}.Argv", "missing", why, '"Argv": the whole command')
        for index, what, why, better in weak_arguments(marble.parameters.argv):
            yield Finding(MEDIUM, f"{path}.Argv[{index}]", what, why, better)
        for variable, why, better in weak_variables(marble.parameters.env):
            yield Finding(MEDIUM, f"{path}.Env.{variable}", f"{variable} is set", why, better)


def secrets_nobody_writes(manifest: Manifest) -> Iterator[Finding]:
    """A secret that is to be uploaded, and nobody may."""
    for name, rule in manifest.secrets.items():
        if rule.user_defined and not users_who_may(manifest, WRITE_SECRET, name):
            why = "it stays empty, and a marble that needs it is refused"
            better = "a user with a role that has WriteSecret on it"
            yield Finding(MEDIUM, f"Secrets.{name}", "user-defined, and no user may write it", why, better)


def writers_who_read(manifest: Manifest) -> Iterator[Finding]:
    """One certificate that both sets and reads."""
    for user in manifest.users:
        granted = permissions(manifest, user)
        both = {name for action, name in granted if action == WRITE_SECRET and (READ_SECRET, name) in granted}
        if both:
            why = "whoever steals this one certificate's key gets the secrets; who wrote them has them anyway"
            better = "WriteSecret alone; a user of its own for reading, if anybody has to"
            yield Finding(MEDIUM, f"Users.{user}.Roles", f"may write and read {_listed(both)}", why, better)


def single_handed_updates(manifest: Manifest) -> Iterator[Finding]:
    """One person who may change everything."""
    updaters = users_who_may(manifest, UPDATE_MANIFEST)
    threshold = manifest.config.update_threshold
    if updaters and (len(updaters) == 1 or threshold == 1):
        who = f"user {updaters[0]}" if len(updaters) == 1 else f"each of {len(updaters)} users"
        why = "one stolen certificate replaces the manifest, and so reaches every secret"
        better = "several users with UpdateManifest, and UpdateThreshold 2 or more (0: all of them)"
        yield Finding(MEDIUM, "Config.UpdateThreshold", f"{who} may update the manifest alone", why, better)


def recovery(manifest: Manifest) -> Iterator[Finding]:
    """Too few who can recover, or too easily."""
    count, threshold = len(manifest.recovery_keys), manifest.config.recovery_threshold
    if not count:
        better = "RSA public keys of several people, and a threshold"
        why = "when the sealing key is lost, as on another machine, every generated secret is lost"
        if any(package.tee in (Tee.TDX, Tee.SIMULATED_TDX) for package in manifest.packages.values()):
            # A manifest does not say where its coordinator runs; beside TDs that is likely to be another one.
            why = "a coordinator in a TD has no sealing key, so each of its starts loses every generated secret"
            yield Finding(HIGH, "RecoveryKeys", "no recovery keys, with packages for TDX", why, better)
        else:
            yield Finding(MEDIUM, "RecoveryKeys", "no recovery keys", why, better)
    elif count > 1 and threshold == 1:
        why = "each holder alone opens the whole state"
        better = '"RecoveryThreshold": 2 or more'
        yield Finding(HIGH, "Config.RecoveryThreshold", f"1 of {count} recovery keys is enough", why, better)
    elif count == 1:
        why = "one holder alone opens the whole state, and without it nobody does"
        yield Finding(LOW, "RecoveryKeys", "one recovery key", why, "several, and a RecoveryThreshold of 2 or more")
    elif threshold == 0:
        why = "one lost key makes the others useless"
        better = f'"RecoveryThreshold": less than {count}, and at least 2'
        yield Finding(LOW, "Config.RecoveryThreshold", f"all of {count} recovery keys are needed", why, better)


def sealing(manifest: Manifest) -> Iterator[Finding]:
    """State that survives no restart."""
    if manifest.config.seal_mode == "Disabled":
        why = "each start of the coordinator needs the holders of the recovery keys"
        yield Finding(MEDIUM, "Config.SealMode", "SealMode is Disabled", why, '"SealMode": "ProductKey" or "UniqueKey"')


def open_ports(manifest: Manifest) -> Iterator[Finding]:
    """Transparent TLS that lets anybody in."""
    for tag, rule in manifest.tls.items():
        for index, port in enumerate(rule.incoming):
            if port.disable_client_auth:
                why = "whoever reaches the port is served, not only other marbles"
                better = "leave DisableClientAuth out, unless clients outside the mesh are meant"
                path = f"TLS.{tag}.Incoming[{index}].DisableClientAuth"
                yield Finding(MEDIUM, path, f"port {port.port} asks no client for a certificate", why, better)


RULES: tuple[Rule, ...] = (
    debug_packages,
    packages_without_software,
    signers_alone,
    tees,
    weaknesses,
    tcb_statuses,
    unlimited_activations,
    unbounded_names,
    lasting_leaves,
    unnamed_models,
    unnamed_clients,
    unauthenticated_models,
    models_without_id,
    secrets_of_two_packages,
    written_keys,
    secrets_in_variables,
    unbound_secrets,
    weak_starts,
    secrets_nobody_writes,
    writers_who_read,
    single_handed_updates,
    recovery,
    sealing,
    open_ports,
)


def _listed(names: set[str] | frozenset[str]) -> str:
    return f"{'secret' if len(names) == 1 else 'secrets'} {', '.join(sorted(names))}"
