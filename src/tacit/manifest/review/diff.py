"""Who gains and who loses what between two manifests?

Each function compares one thing and gives sentences; the order of the whole is by weight: first who gains access, then
what is something else than before, then who loses access. Contents of files, variables and arguments are compared and
never shown.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from tacit.evidence.claims import Tee
from tacit.manifest.access import permissions, ways_to_secrets
from tacit.manifest.appraise import DEFAULT_ACCEPTED_STATUSES
from tacit.manifest.model import ClientRule, Content, Manifest, Marble, Package


class Effect(StrEnum):
    """What a change means for access, the heaviest first."""

    GAIN = "gain"
    CHANGE = "change"
    LOSS = "loss"

    @property
    def rank(self) -> int:
        """0 is the heaviest."""
        return list(Effect).index(self)


GAIN, CHANGE, LOSS = Effect


@dataclass(frozen=True, slots=True)
class Change:
    """One sentence; `path` is where it stands in the manifest."""

    effect: Effect
    path: str
    text: str


Comparison = Callable[[Manifest, Manifest], Iterator[Change]]

_ACTIONS = {
    "readsecret": "read the secret {}",
    "writesecret": "write the secret {}",
    "updatemanifest": "update the manifest",
    "readlog": "read the audit log",
    "updatesecurityversion": "raise the security version of the package {}",
}


def compare_manifests(old: Manifest, new: Manifest) -> tuple[Change, ...]:
    """What changes from `old` to `new`, gains of access first; nothing where both allow the same."""
    changes = [change for compare in COMPARISONS for change in compare(old, new)]
    return tuple(sorted(dict.fromkeys(changes), key=lambda one: one.effect.rank))


def secret_access(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Which marbles, and through them which packages, get which secrets."""
    for name in _all(old.marbles, new.marbles):
        before = ways_to_secrets(old, old.marbles[name]) if name in old.marbles else {}
        after = ways_to_secrets(new, new.marbles[name]) if name in new.marbles else {}
        path = f"Marbles.{name}"
        for secret in sorted(after.keys() - before.keys()):
            by = ", ".join(after[secret])
            who = f"Marble {name} (package {new.marbles[name].package})"
            yield Change(GAIN, path, f"{who} gains access to the secret {secret}, by {by}.")
        for secret in sorted(before.keys() - after.keys()):
            yield Change(LOSS, path, f"Marble {name} loses access to the secret {secret}.")
        for secret in sorted(before.keys() & after.keys()):
            if before[secret] != after[secret]:
                ways = f"{', '.join(before[secret])} before, {', '.join(after[secret])} now"
                yield Change(CHANGE, path, f"Marble {name} gets the secret {secret} another way: {ways}.")


def packages(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Which software may run, and what it reaches."""
    for name in _all(old.packages, new.packages):
        path = f"Packages.{name}"
        if name not in old.packages:
            yield Change(GAIN, path, f"Package {name} is new: {_software(new.packages[name])}.")
        elif name not in new.packages:
            yield Change(LOSS, path, f"Package {name} is gone: its software may no longer run.")
        else:
            yield from _package(path, name, old.packages[name], new.packages[name], _reach(new, name))


def _package(path: str, name: str, old: Package, new: Package, reach: str) -> Iterator[Change]:
    identity = [(one.unique_id, one.signer_id, one.product_id, dict(one.measurements)) for one in (old, new)]
    if identity[0] != identity[1]:
        text = f"Package {name} is other software: {_software(old)} before, {_software(new)} now; it reaches {reach}."
        yield Change(GAIN, path, text)
    by_signer = old.unique_id is None and new.unique_id is None
    if by_signer and (old.security_version or 0) != (new.security_version or 0):
        before, after = old.security_version or 0, new.security_version or 0
        effect, verb = (LOSS, "no longer accepts") if after > before else (GAIN, "now accepts")
        text = f"Package {name} {verb} security versions from {min(before, after)} to below {max(before, after)}."
        yield Change(effect, f"{path}.SecurityVersion", text)
    if old.tee != new.tee:
        text = f"Package {name} runs in another TEE: {old.tee or 'sgx'} before, {new.tee or 'sgx'} now."
        simulated = _is_simulated(new)
        if (old.tee or "sgx") != (new.tee or "sgx"):
            yield Change(GAIN if simulated else CHANGE, f"{path}.TEE", text)
    if old.debug != new.debug:
        gained = f"The host gains all that package {name} has ({reach}): Debug is now true."
        lost = f"The host loses the view into package {name}: Debug is now false."
        yield Change(GAIN if new.debug else LOSS, f"{path}.Debug", gained if new.debug else lost)
    yield from _statuses(path, name, old, new)
    yield from _platforms(path, name, old, new)


def _is_simulated(package: Package) -> bool:
    return package.tee in tuple(Tee) and Tee(package.tee).is_simulated


def _platforms(path: str, name: str, old: Package, new: Package) -> Iterator[Change]:
    """On which hardware it may run, and what evidence may say against itself."""
    for weakness in sorted(set(new.accepted_weaknesses) ^ set(old.accepted_weaknesses)):
        gained = weakness in new.accepted_weaknesses
        text = f"Package {name} {'may now' if gained else 'may no longer'} run with the weakness {weakness}."
        yield Change(GAIN if gained else LOSS, f"{path}.AcceptedWeaknesses", text)
    lowest = (
        ("TCBGraceDays", old.tcb_grace_days, new.tcb_grace_days, True),
        ("MinimumTCBEvaluation", old.minimum_tcb_evaluation, new.minimum_tcb_evaluation, False),
    )
    for field, before, after, wider in lowest:
        if before != after:
            gained = ((after or 0) > (before or 0)) is wider
            yield Change(
                GAIN if gained else LOSS, f"{path}.{field}", f"Package {name}: {field} is {after}, was {before}."
            )
    for component in sorted({*old.minimum_tcb, *new.minimum_tcb}):
        before, after = old.minimum_tcb.get(component), new.minimum_tcb.get(component)
        if before != after:
            text = f"Package {name}: the lowest {component} is {after}, was {before}."
            lower = after is None or (before is not None and after < before)
            yield Change(GAIN if lower else LOSS, f"{path}.MinimumTCB", text)
    yield from _hardware(path, name, old, new)


def _hardware(path: str, name: str, old: Package, new: Package) -> Iterator[Change]:
    if old.allowed_hardware_ids != new.allowed_hardware_ids:
        before, after = old.allowed_hardware_ids, new.allowed_hardware_ids
        wider = after is None or (before is not None and not set(after) <= set(before))
        words = ["any hardware" if one is None else f"{len(one)} listed platforms" for one in (before, after)]
        text = f"Package {name} may run on {words[1]}, before on {words[0]}."
        yield Change(GAIN if wider else LOSS, f"{path}.AllowedHardwareIDs", text)
    ids = [{one.hex() for one in package.refused_hardware_ids} for package in (old, new)]
    lines = [set(package.refused_product_lines) for package in (old, new)]
    for field, (was, now) in (("RefusedHardwareIDs", ids), ("RefusedProductLines", lines)):
        for one in sorted(was - now):
            yield Change(GAIN, f"{path}.{field}", f"Package {name} may run on {one} again.")
        for one in sorted(now - was):
            yield Change(LOSS, f"{path}.{field}", f"Package {name} may no longer run on {one}.")


def _statuses(path: str, name: str, old: Package, new: Package) -> Iterator[Change]:
    before, after = _accepted(old), _accepted(new)
    for status in sorted(after - before):
        text = f"Package {name} may now run on platforms of status {status}."
        yield Change(GAIN, f"{path}.AcceptedTCBStatuses", text)
    for status in sorted(before - after):
        text = f"Package {name} may no longer run on platforms of status {status}."
        yield Change(LOSS, f"{path}.AcceptedTCBStatuses", text)
    known, allowed = old.accepted_advisories, new.accepted_advisories
    where = f"{path}.AcceptedAdvisories"
    if known is not None and allowed is None:
        yield Change(GAIN, where, f"Package {name} may now run on platforms with any advisory.")
    elif known is None and allowed is not None:
        yield Change(LOSS, where, f"Package {name} may now run with listed advisories only: {_listed(allowed)}.")
    else:
        for one in sorted(set(allowed or ()) - set(known or ())):
            yield Change(GAIN, where, f"Package {name} may now run on platforms with advisory {one}.")
        for one in sorted(set(known or ()) - set(allowed or ())):
            yield Change(LOSS, where, f"Package {name} may no longer run on platforms with advisory {one}.")


def _accepted(package: Package) -> set[str]:
    statuses = package.accepted_tcb_statuses
    default = DEFAULT_ACCEPTED_STATUSES if package.tee in (None, Tee.SGX) else ()
    return set(default if statuses is None else statuses) - {"UpToDate", "Revoked"}


def marbles(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Types of servers: which software, how often, under which names, with which models and parameters."""
    for name in _all(old.marbles, new.marbles):
        path = f"Marbles.{name}"
        if name not in old.marbles:
            package = new.marbles[name].package
            yield Change(GAIN, path, f"Marble {name} is new: package {package} may join the mesh as {name}.")
        elif name not in new.marbles:
            yield Change(LOSS, path, f"Marble {name} is gone: nothing may join the mesh as {name}.")
        else:
            before, after = old.marbles[name], new.marbles[name]
            if before.package != after.package:
                secrets = _listed(ways_to_secrets(new, after)) or "no secrets"
                moved = f"Package {after.package} takes the place of {before.package} as marble {name}, with {secrets}."
                yield Change(GAIN, f"{path}.Package", moved)
            yield from _limits(path, name, before, after)
            yield from _names(path, name, before, after)
            yield from _lifetime(path, name, before, after)
            yield from _parameters(path, name, before, after)


def _limits(path: str, name: str, old: Marble, new: Marble) -> Iterator[Change]:
    before, after = old.max_activations, new.max_activations
    if before != after:
        shown = [str(one) if one else "without limit" for one in (before, after)]
        more = after == 0 or (before != 0 and after > before)
        text = f"Marble {name} may be activated {'more' if more else 'less'} often: {shown[0]} before, {shown[1]} now."
        yield Change(GAIN if more else LOSS, f"{path}.MaxActivations", text)
    if old.disable_secret_binding != new.disable_secret_binding:
        freed = new.disable_secret_binding
        text = f"Unshared keys of marble {name} are {'no longer' if freed else 'now'} bound to its name; they change."
        yield Change(GAIN if freed else LOSS, f"{path}.DisableSecretBinding", text)
    for model in sorted(set(new.models) - set(old.models)):
        yield Change(GAIN, f"{path}.Models", f"Marble {name} may now load the model {model}.")
    for model in sorted(set(old.models) - set(new.models)):
        yield Change(LOSS, f"{path}.Models", f"Marble {name} may no longer load the model {model}.")


def _names(path: str, name: str, old: Marble, new: Marble) -> Iterator[Change]:
    where = f"{path}.AllowedNames"
    before, after = old.allowed_names, new.allowed_names
    if before is not None and after is None:
        yield Change(GAIN, where, f"Marble {name} may now have any name in its certificate.")
    elif before is None and after is not None:
        only = f"only these names in its certificate: {_listed(after)}" if after else "no name in its certificate"
        yield Change(LOSS, where, f"Marble {name} may now have {only}.")
    else:
        for one in sorted(set(after or ()) - set(before or ())):
            yield Change(GAIN, where, f"Marble {name} may now have the name {one} in its certificate.")
        for one in sorted(set(before or ()) - set(after or ())):
            yield Change(LOSS, where, f"Marble {name} may no longer have the name {one} in its certificate.")


def _lifetime(path: str, name: str, old: Marble, new: Marble) -> Iterator[Change]:
    before, after = old.leaf_ttl, new.leaf_ttl
    if before == after:
        return
    shown = [f"for {one}" if one else "as long as the mesh" for one in (before, after)]
    longer = after is None or (before is not None and after > before)
    text = f"Certificates of marble {name} are valid {shown[1]} now, {shown[0]} before."
    yield Change(GAIN if longer else LOSS, f"{path}.LeafTTL", text)


def _parameters(path: str, name: str, old: Marble, new: Marble) -> Iterator[Change]:
    where = f"{path}.Parameters"
    if old.parameters.argv != new.parameters.argv:
        yield Change(CHANGE, f"{where}.Argv", f"Marble {name} runs another command or other arguments.")
    kinds: tuple[tuple[str, str, Mapping[str, Content], Mapping[str, Content]], ...] = (
        ("file", "Files", old.parameters.files, new.parameters.files),
        ("variable", "Env", old.parameters.env, new.parameters.env),
    )
    for kind, section, before, after in kinds:
        for one in _all(before, after):
            if before.get(one) != after.get(one):
                verb = "no longer gets" if one not in after else "now gets" if one not in before else "gets"
                ending = ", with other contents" if one in before and one in after else ""
                yield Change(CHANGE, f"{where}.{section}.{one}", f"Marble {name} {verb} the {kind} {one}{ending}.")
    if set(old.tls) != set(new.tls):
        text = f"Marble {name} has other tags of TLS: {_listed(old.tls) or 'none'} before, {_listed(new.tls) or 'none'} now."
        yield Change(CHANGE, f"{path}.TLS", text)


def models(old: Manifest, new: Manifest) -> Iterator[Change]:
    """What may be loaded under each name."""
    for name in _all(old.models, new.models):
        path = f"Models.{name}"
        if name not in new.models:
            yield Change(LOSS, path, f"Model {name} is gone.")
            continue
        if name not in old.models:
            yield Change(CHANGE, path, f"Model {name} is new.")
            continue
        before, after = old.models[name], new.models[name]
        if before.format != after.format:
            weaker = before.format == "capsule"
            text = f"Model {name} has another format: {before.format} before, {after.format} now"
            ending = "; nobody notices any more when it was altered." if weaker else "."
            yield Change(GAIN if weaker else CHANGE, f"{path}.Format", text + ending)
        if before.model_id != after.model_id:
            any_now = not after.model_id
            text = (
                "may now be any capsule under its key" if any_now else f"is now the capsule {_digest(after.model_id)}"
            )
            yield Change(GAIN if any_now else CHANGE, f"{path}.ID", f"Model {name} {text}.")
        if before.min_version != after.min_version:
            older = after.min_version < before.min_version
            text = f"Model {name} is {'now' if older else 'no longer'} loaded in versions below"
            newest = max(before.min_version, after.min_version)
            yield Change(GAIN if older else LOSS, f"{path}.MinVersion", f"{text} {newest}.")
        if before.key != after.key:
            text = f"Model {name} is opened by the secret {after.key or '(none)'}, {before.key or '(none)'} before."
            yield Change(CHANGE, f"{path}.Key", text)


def clients(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Who may call model servers, and who may manage them."""
    before_closed = any(client.models for client in old.clients.values())
    after_closed = any(client.models for client in new.clients.values())
    if before_closed != after_closed:
        text = "only clients that name a model may call it" if after_closed else "every client may call every model"
        yield Change(LOSS if after_closed else GAIN, "Clients", f"Now {text}.")
    for name in _all(old.clients, new.clients):
        path, nobody = f"Clients.{name}", ClientRule()
        before, after = old.clients.get(name, nobody), new.clients.get(name, nobody)
        if name in old.clients and name in new.clients:
            known = [(one.certificate, one.token_hash) for one in (before, after)]
            if known[0] != known[1]:
                yield Change(CHANGE, path, f"Client {name} is known by another certificate or token.")
        for model in sorted(set(after.models) - set(before.models)):
            yield Change(GAIN, f"{path}.Models", f"Client {name} may now call the model {model}.")
        for model in sorted(set(before.models) - set(after.models)):
            yield Change(LOSS, f"{path}.Models", f"Client {name} is no longer named for the model {model}.")
        if before.management != after.management:
            text = "may now exchange models" if after.management else "may no longer exchange models"
            yield Change(GAIN if after.management else LOSS, f"{path}.Management", f"Client {name} {text}.")


def secrets(old: Manifest, new: Manifest) -> Iterator[Change]:
    """How each secret is made."""
    for name in _all(old.secrets, new.secrets):
        path = f"Secrets.{name}"
        before, after = old.secrets.get(name), new.secrets.get(name)
        if after is None:
            yield Change(LOSS, path, f"Secret {name} is gone.")
        elif before is None:
            yield Change(CHANGE, path, f"Secret {name} is new.")
        elif before != after:
            if after.shared and not before.shared:
                yield Change(GAIN, f"{path}.Shared", f"Secret {name} is now one for all marbles that get it.")
            elif before.shared and not after.shared:
                yield Change(LOSS, f"{path}.Shared", f"Secret {name} is now another for each marble.")
            if before.user_defined != after.user_defined:
                maker = "a user" if after.user_defined else "the coordinator"
                yield Change(CHANGE, f"{path}.UserDefined", f"Secret {name} now comes from {maker}.")
            for field, word in (("type", "Type"), ("size", "Size"), ("valid_for", "ValidFor")):
                values = getattr(before, field), getattr(after, field)
                if values[0] != values[1]:
                    text = f"Secret {name} has another {word}: {values[0]} before, {values[1]} now."
                    yield Change(CHANGE, f"{path}.{word}", text)
            if before.certificate != after.certificate:
                yield Change(CHANGE, f"{path}.Cert", f"Secret {name} has another certificate.")


def users(old: Manifest, new: Manifest) -> Iterator[Change]:
    """People and programs: who they are, and what they may do."""
    for name in _all(old.users, new.users):
        path = f"Users.{name}"
        before = permissions(old, name) if name in old.users else frozenset()
        after = permissions(new, name) if name in new.users else frozenset()
        for action, resource in sorted(after - before):
            yield Change(GAIN, path, f"User {name} may now {_permission(action, resource)}.")
        for action, resource in sorted(before - after):
            yield Change(LOSS, path, f"User {name} may no longer {_permission(action, resource)}.")
        if name not in old.users:
            yield Change(CHANGE, path, f"User {name} is new.")
        elif name not in new.users:
            yield Change(LOSS, path, f"User {name} is gone.")
        elif old.users[name].certificate != new.users[name].certificate:
            text = f"Another certificate is user {name} now, with all that this user may do."
            yield Change(GAIN, f"{path}.Certificate", text)


def tls_ports(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Ports of transparent TLS."""
    for tag in _all(old.tls, new.tls):
        before, after = old.tls.get(tag), new.tls.get(tag)
        path = f"TLS.{tag}"
        was_open, is_open = (
            {port.port for port in rule.incoming if port.disable_client_auth} if rule else set()
            for rule in (before, after)
        )
        for port in sorted(is_open - was_open):
            yield Change(GAIN, path, f"Clients without a certificate gain port {port} of TLS tag {tag}.")
        for port in sorted(was_open - is_open):
            yield Change(LOSS, path, f"Clients without a certificate lose port {port} of TLS tag {tag}.")
        if before != after and was_open == is_open:
            yield Change(CHANGE, path, f"TLS tag {tag} has other ports, certificates or addresses.")


def recovery(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Who can open the sealed state."""
    for name in _all(old.recovery_keys, new.recovery_keys):
        path = f"RecoveryKeys.{name}"
        if name not in old.recovery_keys:
            yield Change(GAIN, path, f"The holder of recovery key {name} gains a part in recovery.")
        elif name not in new.recovery_keys:
            yield Change(LOSS, path, f"The holder of recovery key {name} loses the part in recovery.")
        elif old.recovery_keys[name] != new.recovery_keys[name]:
            yield Change(GAIN, path, f"Another key is recovery key {name} now.")
    before, after = (one.config.recovery_threshold or len(one.recovery_keys) for one in (old, new))
    if before != after:
        text = f"Recovery needs {after} of {len(new.recovery_keys)} keys; {before} of {len(old.recovery_keys)} before."
        yield Change(GAIN if after < before else LOSS, "Config.RecoveryThreshold", text)


def settings(old: Manifest, new: Manifest) -> Iterator[Change]:
    """Settings of the coordinator itself."""
    before, after = old.config, new.config
    if before.update_threshold != after.update_threshold:
        # 0 is all who may, so it is never the smaller one.
        fewer = after.update_threshold != 0 and (
            before.update_threshold == 0 or after.update_threshold < before.update_threshold
        )
        shown = [f"{one} users" if one else "all who may" for one in (before.update_threshold, after.update_threshold)]
        text = f"An update needs {shown[1]} to agree; {shown[0]} before."
        yield Change(GAIN if fewer else LOSS, "Config.UpdateThreshold", text)
    for gate in sorted(set(after.feature_gates) - set(before.feature_gates)):
        yield Change(GAIN, "Config.FeatureGates", f"Marbles and users gain the feature {gate}.")
    for gate in sorted(set(before.feature_gates) - set(after.feature_gates)):
        yield Change(LOSS, "Config.FeatureGates", f"Marbles and users lose the feature {gate}.")
    if before.seal_mode != after.seal_mode:
        shown = [one or "the default" for one in (before.seal_mode, after.seal_mode)]
        yield Change(CHANGE, "Config.SealMode", f"The state is sealed another way: {shown[0]} before, {shown[1]} now.")
    if before.rotate_root_secret != after.rotate_root_secret:
        text = (
            "An update now changes every generated key." if after.rotate_root_secret else "Updates now keep the keys."
        )
        yield Change(CHANGE, "Config.RotateRootSecret", text)
    if old.infrastructures != new.infrastructures:
        yield Change(CHANGE, "Infrastructures", "Infrastructures differ; no coordinator compares them.")


COMPARISONS: tuple[Comparison, ...] = (
    secret_access,
    users,
    packages,
    marbles,
    models,
    clients,
    recovery,
    settings,
    tls_ports,
    secrets,
)


def _all(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return sorted(old.keys() | new.keys())


def _permission(action: str, resource: str) -> str:
    return _ACTIONS[action].format(resource) if action in _ACTIONS else f"do {action} on {resource or 'the manifest'}"


def _reach(manifest: Manifest, package: str) -> str:
    """The secrets that a package gets through its marbles, in words."""
    found = {
        secret
        for marble in manifest.marbles.values()
        if marble.package == package
        for secret in ways_to_secrets(manifest, marble)
    }
    return _listed(found) or "no secrets"


def _software(package: Package) -> str:
    parts = []
    if package.unique_id is not None:
        parts.append(f"UniqueID {_digest(package.unique_id)}")
    if package.signer_id is not None:
        parts.append(f"SignerID {_digest(package.signer_id)}")
    if package.product_id is not None:
        parts.append(f"ProductID {package.product_id}")
    parts += [f"{register} {value.hex()[:16]}…" for register, value in sorted(package.measurements.items())]
    return " ".join(parts) or "nothing named"


def _digest(value: bytes | None) -> str:
    return f"{value.hex()[:16]}…" if value else "(no digest)"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
