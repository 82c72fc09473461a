"""Does what a manifest says make sense?

Each rule is a generator of defects over one section; `find_defects` runs them in the order of MarbleRun's check, maps
sorted by name, so that the first is always the same one. Where the rule is MarbleRun's, so are the words.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from ipaddress import ip_address

from tacit.errors import ManifestError
from tacit.evidence.claims import PROGRAM_REGISTERS, REGISTERS, TCB_COMPONENTS, WEAKNESSES, Tee
from tacit.manifest.access import UPDATE_MANIFEST
from tacit.manifest.appraise import NOT_RATED
from tacit.manifest.model import (
    SECRET_TYPES,
    ClientRule,
    Manifest,
    Marble,
    ModelRule,
    Package,
    RoleRule,
    SecretRule,
    TlsRule,
)

SEAL_MODES = ("", "ProductKey", "UniqueKey", "Disabled")
FEATURE_GATES = ("SignQuoteEndpoint", "MonotonicCounter", "AzureHSMSealing")
SUPPORTED_TEES = tuple(Tee)
MODEL_FORMATS = ("capsule", "ctr", "plain")
ID_SIZE = 32  # bytes of a model's id
ACTIONS = {
    "Packages": ("updatesecurityversion",),
    "Secrets": ("readsecret", "writesecret"),
    "Manifest": (UPDATE_MANIFEST,),
}
"""Actions by resource type, in lower case: they are compared ignoring case, resource types exactly."""
MIN_LEAF_TTL = timedelta(minutes=1)
RESERVED_ENV = "MARBLE_PREDEFINED_"

_HSM_ENV = [
    "EDG_MAA_URL",
    "EDG_AZURE_HSM_VAULT_URL",
    "EDG_AZURE_HSM_KEY_NAME",
    "EDG_AZURE_CLIENT_ID",
    "EDG_AZURE_TENANT_ID",
]
_HSM_SECRET = "EDG_AZURE_CLIENT_SECRET"  # noqa: S105 -- the name of a variable
_HSM_FEDERATED = ["EDG_AZURE_AUTHORITY_HOST", "EDG_AZURE_FEDERATED_TOKEN_FILE"]
_DNS_NAME = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")


def check_manifest(manifest: Manifest, *, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Warnings about a manifest that makes sense. `environ` is asked for what a feature gate needs.

    Raises:
        ManifestError: the first defect, in MarbleRun's words where it has them.
    """
    for defect in find_defects(manifest, environ=environ):
        raise ManifestError(defect)
    return tuple(find_warnings(manifest))


def find_defects(manifest: Manifest, *, environ: Mapping[str, str] | None = None) -> Iterator[str]:
    """Every defect, in a fixed order."""
    return (text for _, text in locate_defects(manifest, environ=environ))


def locate_defects(
    manifest: Manifest, *, environ: Mapping[str, str] | None = None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every defect with the section, and the entry in it, where it stands; in a fixed order."""
    if not manifest.packages:
        yield ("Packages",), "no allowed packages defined"
    if not manifest.marbles:
        yield ("Marbles",), "no allowed marbles defined"
    for name, marble in sorted(manifest.marbles.items()):
        for text in _check_marble(manifest, name):
            of_package = text.endswith(f"in package {marble.package}")
            yield ("Packages", marble.package) if of_package else ("Marbles", name), text
    for tag, rule in sorted(manifest.tls.items()):
        yield from _at("TLS", tag, _check_tls(manifest, tag, rule))
    for name, text in _check_users(manifest):
        yield ("Users", name), text
    for name, role in sorted(manifest.roles.items()):
        yield from _at("Roles", name, _check_role(manifest, name, role))
    for name, secret in sorted(manifest.secrets.items()):
        yield from _at("Secrets", name, _check_secret(name, secret))
    for text in _check_config(manifest, environ or {}):
        yield ("Config",), text
    for name, package in sorted(manifest.packages.items()):
        yield from _at("Packages", name, _check_tee(name, package))
        yield from _at("Packages", name, _check_platform(f"Packages.{name}", package))
    yield from _check_serving(manifest)


def _check_serving(manifest: Manifest) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, model in sorted(manifest.models.items()):
        yield from _at("Models", name, _check_model(manifest, name, model))
    for name, client in sorted(manifest.clients.items()):
        yield from _at("Clients", name, _check_client(manifest, f"Clients.{name}", client))


def _at(section: str, name: str, texts: Iterator[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    return (((section, name), text) for text in texts)


def _check_tee(name: str, package: Package) -> Iterator[str]:
    if package.tee is not None and package.tee not in SUPPORTED_TEES:
        known = ", ".join(SUPPORTED_TEES)
        yield f'Packages.{name}.TEE: "{package.tee}" is not supported; supported here: {known}'


def _check_secret(name: str, secret: SecretRule) -> Iterator[str]:
    issued = secret.type in SECRET_TYPES and secret.type.startswith("cert-")
    if issued and secret.certificate.not_after is not None and secret.valid_for:
        detail = "both NotAfter and ValidFor are specified"
        yield f"ambiguous certificate validity duration for secret: {name}, {detail}"
    if secret.type not in SECRET_TYPES:
        yield f"unknown type: {secret.type} for secret: {name}"


def _check_marble(manifest: Manifest, name: str) -> Iterator[str]:
    marble = manifest.marbles[name]
    package = manifest.packages.get(marble.package)
    if package is None:
        yield f"manifest does not contain marble package {marble.package}"
    elif not package.debug:
        yield from package_defects(marble.package, package)
    for tag in marble.tls:
        if tag not in manifest.tls:
            yield f"manifest misses TLS entry for {tag}"
    for model in marble.models:
        if model not in manifest.models:
            yield f'Marbles.{name}.Models: model "{model}" is not defined in the manifest'
    yield from _check_names(name, marble)


def _check_names(name: str, marble: Marble) -> Iterator[str]:
    """Names of our extensions, and those that no system can give to a variable or file."""
    for allowed in marble.allowed_names or ():
        if not _is_name(allowed):
            yield f'Marbles.{name}.AllowedNames: "{allowed}" is neither a DNS name nor an IP address'
    if marble.leaf_ttl is not None and marble.leaf_ttl < MIN_LEAF_TTL:
        yield f"Marbles.{name}.LeafTTL: a certificate lives for a minute at least; most servers need hours"
    for variable in sorted(marble.parameters.env):
        if not variable or "=" in variable or "\0" in variable:
            yield f'Marbles.{name}.Parameters.Env: a variable cannot have the name "{variable}"'
    for path in sorted(marble.parameters.files):
        if not path or "\0" in path:
            yield f'Marbles.{name}.Parameters.Files: a file cannot have the path "{path}"'


def package_defects(name: str, package: Package) -> Iterator[str]:
    """What keeps this package from standing for exactly one software. For Debug packages these are warnings."""
    signed = (package.signer_id, package.product_id, package.security_version)
    if register := PROGRAM_REGISTERS.get(_layout(package)):
        if register not in package.measurements:
            yield f"manifest misses value for Measurements.{register} in package {name}"
        return
    if package.unique_id is not None:
        if any(value is not None for value in signed):
            fields = "SignerID/ProductID/SecurityVersion"
            yield f"manifest specifies both UniqueID *and* {fields} in package {name}"
        return
    for value, field in zip(signed, ("SignerID", "ProductID", "SecurityVersion"), strict=True):
        if value is None:
            yield f"manifest misses value for {field} in package {name}"


def _layout(package: Package) -> Tee:
    return Tee(package.tee).layout if package.tee in SUPPORTED_TEES else Tee.SGX


def _check_platform(path: str, package: Package) -> Iterator[str]:
    """Names and sizes of what a package says about platforms: a misspelt one would never match, or never refuse."""
    layout = _layout(package)
    sizes = REGISTERS[layout]
    if layout is not Tee.SGX and (package.unique_id, package.signer_id, package.product_id) != (None, None, None):
        yield f"{path}: UniqueID, SignerID and ProductID are SGX's; {layout} has Measurements"
    yield from _check_tcb(path, package, layout)
    for name, value in sorted(package.measurements.items()):
        if name not in sizes:
            yield f"{path}.Measurements: {layout} has no register {name!r}; it has {', '.join(sizes)}"
        elif len(value) != sizes[name]:
            yield f"{path}.Measurements.{name}: expected {2 * sizes[name]} hex digits"
    for weakness in package.accepted_weaknesses:
        if weakness not in WEAKNESSES[layout]:
            known = ", ".join(sorted(WEAKNESSES[layout])) or "none"
            yield f"{path}.AcceptedWeaknesses: {layout} evidence has no {weakness!r}; it has {known}"
    size = 64 if layout is Tee.SNP else 16
    for identity in (*(package.allowed_hardware_ids or ()), *package.refused_hardware_ids):
        if len(identity) != size:
            yield f"{path}: a hardware id of {layout} has {2 * size} hex digits"


def _check_tcb(path: str, package: Package, layout: Tee) -> Iterator[str]:
    """What is said of versions, where nobody has them."""
    if package.minimum_tcb and layout is not Tee.SNP:
        yield f"{path}.MinimumTCB: only SNP has components by name; {layout} has statuses and MinimumTCBEvaluation"
    for name in sorted(set(package.minimum_tcb) - TCB_COMPONENTS):
        yield f"{path}.MinimumTCB: there is no component {name!r}; there are {', '.join(sorted(TCB_COMPONENTS))}"
    for field, found in (
        ("TCBGraceDays", package.tcb_grace_days),
        ("MinimumTCBEvaluation", package.minimum_tcb_evaluation),
    ):
        if layout is Tee.SNP and found is not None:
            yield f"{path}.{field}: AMD rates no platforms; SNP has MinimumTCB"


def _is_name(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return len(text) <= 253 and _DNS_NAME.fullmatch(text) is not None
    return True


def _check_tls(manifest: Manifest, tag: str, rule: TlsRule) -> Iterator[str]:
    for incoming in rule.incoming:
        if not incoming.port:
            yield f"manifest misses Port in TLS.Incoming.{tag}"
        if incoming.certificate:
            if incoming.certificate not in manifest.secrets:
                yield f"TLS.Incoming.{tag} references undefined secret {incoming.certificate}"
            if not incoming.disable_client_auth:
                yield f"TLS.Incoming.{tag} defines Cert but does not disable client authentication"
        elif incoming.disable_client_auth:
            yield f"TLS.Incoming.{tag} disables client authentication"
    for outgoing in rule.outgoing:
        if not outgoing.addr:
            yield f"manifest misses Addr in TLS.Outgoing.{tag}"
        if not outgoing.port:
            yield f"manifest misses Port in TLS.Outgoing.{tag}"


def _check_users(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The user's name, and the defect."""
    first_with: dict[str, str] = {}
    for name, user in sorted(manifest.users.items()):
        if not user.pem:
            yield name, f"manifest does not contain a certificate for user {name}"
        for role in user.roles:
            if role not in manifest.roles:
                yield name, f"manifest specifies role {role} for user {name}, but role does not exist"
        if user.pem and user.pem in first_with:
            yield name, f"manifest contains the same certificate for users {name} and {first_with[user.pem]}"
        first_with.setdefault(user.pem, name)


def _check_role(manifest: Manifest, name: str, role: RoleRule) -> Iterator[str]:
    match role.resource_type:
        case "Packages" | "Secrets":
            pass
        case "Manifest":
            if role.resource_names:
                yield f"role {name}: resource names are not allowed for type Manifest"
                return
        case _:
            lists = f"[{' '.join(role.resource_names)}] [{' '.join(role.actions)}]"
            yield f"unrecognized resource type: {{{role.resource_type} {lists}}} for role: {name}"
            return
    if role.resource_type == "Packages":  # MarbleRun looks at a secret's role the other way round
        for resource in role.resource_names:
            if resource not in manifest.packages:
                yield f"role {name}: resource {resource} of type Packages is not defined in manifest"
    for action in role.actions:
        if action.lower() not in ACTIONS[role.resource_type]:
            yield f"unknown action: {action} for type {role.resource_type} in role: {name}"
    if role.resource_type == "Secrets":
        yield from _check_secrets_of_role(manifest, name, role)


def _check_secrets_of_role(manifest: Manifest, name: str, role: RoleRule) -> Iterator[str]:
    actions = {action.lower() for action in role.actions}
    for resource in role.resource_names:
        secret = manifest.secrets.get(resource)
        if secret is None:
            yield f"role {name}: resource {resource} of type Secrets is not defined in manifest"
            continue
        if secret.user_defined:
            continue
        if "writesecret" in actions:
            reason = f"role {name} and secret {resource}, but secret is not user-defined"
            yield f"manifest specifies write permission for {reason}"
        if "readsecret" in actions and not secret.shared:
            yield f"manifest specifies read permission for role {name} and per-marble-unique secret {resource}"


def _check_config(manifest: Manifest, environ: Mapping[str, str]) -> Iterator[str]:
    config = manifest.config
    updaters = sum(any(_may_update(manifest, role) for role in user.roles) for user in manifest.users.values())
    if updaters < config.update_threshold:
        counts = f"({updaters}) to meet the threshold of {config.update_threshold}"
        yield f"not enough users with manifest update permissions {counts}"
    if config.seal_mode not in SEAL_MODES:
        yield f"unknown seal mode: {config.seal_mode}"
    gates = {gate.lower(): gate for gate in FEATURE_GATES}
    for gate in config.feature_gates:
        if gate.lower() not in gates:
            yield f"unknown feature gate: {gate}"
        elif gates[gate.lower()] == "AzureHSMSealing":
            yield _hsm_defect(environ)
    if config.recovery_threshold > len(manifest.recovery_keys):
        counts = (
            f"({len(manifest.recovery_keys)}) defined to meet the recovery threshold of {config.recovery_threshold}"
        )
        yield f"not enough recovery keys {counts}"
    elif config.recovery_threshold == 1:
        yield "invalid recovery threshold: if set, threshold must be at least 2"


def _may_update(manifest: Manifest, role_name: str) -> bool:
    role = manifest.roles.get(role_name)
    # Only a role's first action counts, as MarbleRun counts; Manifest has no second one.
    return (
        role is not None
        and role.resource_type == "Manifest"
        and role.actions[:1] != ()
        and (role.actions[0].lower() == UPDATE_MANIFEST)
    )


def _hsm_defect(environ: Mapping[str, str]) -> str:
    missing = [name for name in _HSM_ENV if not environ.get(name)]
    federated = [name for name in _HSM_FEDERATED if not environ.get(name)]
    if not environ.get(_HSM_SECRET) and federated:
        missing += [_HSM_SECRET, *federated]
    if missing:
        reason = "but required environment variables are not set"
        return f"manifest enables sealing with Azure HSM key, {reason}: [{' '.join(missing)}]"
    return "Config.FeatureGates: this coordinator cannot seal with an Azure HSM key; take AzureHSMSealing out"


def _check_model(manifest: Manifest, name: str, model: ModelRule) -> Iterator[str]:
    path = f"Models.{name}"
    if model.format not in MODEL_FORMATS:
        yield f'{path}.Format: unknown format "{model.format}"; known: {", ".join(MODEL_FORMATS)}'
        return
    if model.model_id is not None and len(model.model_id) != ID_SIZE:
        # Read leniently, text that is no digest leaves an empty id, which must never come to mean "any model".
        yield f"{path}.ID: expected {ID_SIZE} bytes as {2 * ID_SIZE} hex digits; `tacit model inspect` prints them"
    if model.format == "plain":
        if model.key:
            yield f"{path}.Key: a plain model has no key; take Key out, or encrypt the model"
        return
    secret = manifest.secrets.get(model.key)
    if not model.key:
        yield f"{path}.Key: a model of format {model.format} needs the name of the secret that opens it"
    elif secret is None:
        yield f'{path}.Key: secret "{model.key}" is not defined in the manifest'
    elif secret.type == "symmetric-key":
        if secret.size != 256:
            yield f'{path}.Key: secret "{model.key}" has {secret.size} bits; a model\'s key has 256'
        if not (secret.shared or secret.user_defined):
            reason = "differs from marble to marble; make it Shared or UserDefined"
            yield f'{path}.Key: secret "{model.key}" {reason}'
    elif not (secret.type == "plain" and secret.user_defined):
        expected = "a symmetric-key of 256 bits or a user-defined plain secret"
        yield f'{path}.Key: secret "{model.key}" is a {secret.type}; expected {expected}'


def _check_client(manifest: Manifest, path: str, client: ClientRule) -> Iterator[str]:
    if not client.pem and client.token_hash is None:
        yield f"{path}: a client is known by its Certificate (PEM), by TokenHash (SHA-256 of a bearer token), or by both"
    if client.pem and not client.certificate:
        yield f"{path}.Certificate: the first PEM block is no X.509 certificate"
    if client.token_hash is not None and len(client.token_hash) != ID_SIZE:
        # Read leniently, text that is no digest leaves an empty one, which must never come to mean "any token".
        yield f"{path}.TokenHash: expected the {2 * ID_SIZE} hex digits of the token's SHA-256"
    if client.management and not client.pem:
        yield f"{path}.Management: needs a Certificate; a token can be passed on"
    if not client.models and not client.management:
        yield f"{path}: it may do nothing; name its Models, or give it Management"
    for model in client.models:
        if model not in manifest.models:
            yield f'{path}.Models: model "{model}" is not defined in the manifest'


def find_warnings(manifest: Manifest) -> Iterator[str]:
    """What is allowed and yet needs a second look."""
    used = {marble.package for marble in manifest.marbles.values()}
    for name, package in sorted(manifest.packages.items()):
        yield from _warn_of_package(name, package, used=name in used)
    for name, marble in sorted(manifest.marbles.items()):
        for variable in sorted(marble.parameters.env):
            if variable.startswith(RESERVED_ENV):
                yield f"Marbles.{name}.Parameters.Env.{variable}: reserved; the coordinator's value replaces it"
    for name, model in sorted(manifest.models.items()):
        if model.format != "capsule":
            yield f"Models.{name}.Format: nobody notices when a model of format {model.format} was altered"
        elif not model.model_id:
            yield f"Models.{name}.ID: not given: any capsule under this key is loaded"


def _warn_of_package(name: str, package: Package, *, used: bool) -> Iterator[str]:
    if package.debug:
        yield f"Packages.{name}: Debug is true: the host reads the memory of such an enclave"
        if used:
            yield from package_defects(name, package)
    if "Revoked" in (package.accepted_tcb_statuses or ()):
        yield f"Packages.{name}.AcceptedTCBStatuses: Revoked is never accepted, also when it is listed"
    if (
        _layout(package) is Tee.SNP
        and not package.minimum_tcb
        and NOT_RATED not in (package.accepted_tcb_statuses or ())
    ):
        yield (
            f"Packages.{name}: no evidence fits, for AMD rates no platforms: name the lowest versions in MinimumTCB, or say "
            f'"AcceptedTCBStatuses": ["{NOT_RATED}"]'
        )
    for given, field in ((package.unique_id, "UniqueID"), (package.signer_id, "SignerID")):
        if given == b"":
            yield f"Packages.{name}.{field}: not 64 hexadecimal digits: no enclave can match it"
