"""Who may have what?

The ways by which a secret reaches a marble (a template, a port of transparent TLS, a model), and what a user's roles
add up to. The coordinator derives for a marble what `used_secrets` names; reviews of a manifest speak of the rest.
Everything here answers for any manifest that can be read, also for one that names what it does not define.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from tacit.errors import TemplateError
from tacit.manifest.model import Content, Manifest, Marble
from tacit.manifest.template.lex import Item, Token, lex

READ_SECRET = "readsecret"  # noqa: S105 -- the name of an action
WRITE_SECRET = "writesecret"  # noqa: S105 -- the name of an action
UPDATE_MANIFEST = "updatemanifest"
READ_LOG = "readlog"

_PUBLIC_FIELDS = frozenset({"Cert", "Type", "Size", "Shared", "UserDefined", "ValidFor"})
_PATH = (Token.FIELD, Token.VARIABLE)


def named_secrets(content: Content) -> frozenset[str] | None:
    """The secrets that a template names; None where it may reach any."""
    uses = _uses(content)
    return None if uses is None else frozenset(name for name, _ in uses)


@lru_cache(maxsize=65536)
def _uses(content: Content) -> frozenset[tuple[str, str]] | None:
    """Each secret that a template names, with the field that follows the name, if one does.

    None where it may reach any: by the map of all, by the dot itself, or where it cannot be read at all. Read from
    tokens, as what a text between quotes holds may look like anything.
    """
    if not content.templates or b"{{" not in content.data:
        return frozenset()
    try:
        items = lex(content.data.decode("latin-1"))
    except TemplateError:
        return None
    uses = set()
    at = 0
    while at < len(items):
        item = items[at]
        at += 1
        if item.kind is Token.DOT:
            return None
        if item.kind is Token.FIELD and item.text == ".Secrets":
            found = _used(items, at)
            if found is None:
                return None
            name, at = found
            field = items[at].text[1:] if items[at].kind is Token.FIELD else ""
            uses.add((name.encode("latin-1").decode("utf-8", "replace"), field))
    return frozenset(uses)


def _used(items: Sequence[Item], at: int) -> tuple[str, int] | None:
    """The secret that is named by what follows `.Secrets`, and where that ends: `.name`, or the text of an `index`."""
    following = items[at]
    if following.kind is Token.FIELD:
        return following.text[1:], at + 1
    start = at - 1
    while start and items[start - 1].kind in _PATH:
        start -= 1
    called = start >= 2 and items[start - 1].kind is Token.SPACE and items[start - 2].text == "index"
    if not called or following.kind is not Token.SPACE or items[at + 1].kind is not Token.STRING:
        return None
    literal = items[at + 1].text
    if "\\" in literal:
        return None
    closing = at + 2 + (items[at + 2].kind is Token.SPACE)
    # `(index .Secrets "x").Cert` is a field of it; after a blank, the field would be another argument.
    is_field_next = items[closing].kind is Token.CLOSE and items[closing + 1].kind is Token.FIELD
    return literal[1:-1], closing + 1 if is_field_next else at + 2


class _Same:
    """A manifest by its identity: to compare two by their content takes longer than what is looked up with it."""

    __slots__ = ("manifest",)

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.manifest is other.manifest

    def __hash__(self) -> int:
        return id(self.manifest)


@lru_cache(maxsize=2)
def _marbles_by_secret(same: _Same) -> Mapping[str | None, frozenset[str]]:
    """The marbles whose templates name a secret; those under None may reach any."""
    found: dict[str | None, set[str]] = {None: set()}
    for name, marble in same.manifest.marbles.items():
        for content in (*marble.parameters.files.values(), *marble.parameters.env.values()):
            named = named_secrets(content)
            for one in (None,) if named is None else named:
                found.setdefault(one, set()).add(name)
    return {one: frozenset(names) for one, names in found.items()}


def marbles_with(manifest: Manifest, secrets: Iterable[str]) -> frozenset[str]:
    """The marbles of which a template may use one of these secrets. With those in doubt."""
    index = _marbles_by_secret(_Same(manifest))
    return index[None].union(*(index.get(name, frozenset()) for name in secrets))


def uses_previous(marble: Marble) -> bool:
    """Whether a template of this type may see values from before the last update. Says yes when in doubt."""
    parameters = marble.parameters
    return any(map(_may_reach_previous, (*parameters.files.values(), *parameters.env.values())))


@lru_cache(maxsize=65536)
def _may_reach_previous(content: Content) -> bool:
    return content.templates and (named_secrets(content) is None or b"Previous" in content.data)


def used_secrets(manifest: Manifest, marble: Marble) -> frozenset[str]:
    """The secrets that this type's templates, ports and models may use."""
    contents = [*marble.parameters.files.values(), *marble.parameters.env.values()]
    named = [named_secrets(content) for content in contents]
    used = (
        set(manifest.secrets)
        if None in named
        else {name for one in named for name in one or () if name in manifest.secrets}
    )
    used |= {name for name, _ in _by_ports(manifest, marble)} | {name for name, _ in _by_models(manifest, marble)}
    return frozenset(used)


def revealed_secrets(manifest: Manifest, content: Content) -> frozenset[str]:
    """The secrets whose secret part a template may put out. A certificate alone, or a size, is nobody's secret."""
    uses = _uses(content)
    if uses is None:
        return frozenset(manifest.secrets)
    revealed = set()
    for name, field in uses:
        # The public half of a certificate's key is public; a symmetric key has no such half, whatever the field says.
        public = _PUBLIC_FIELDS | ({"Public"} if _is_certificate(manifest, name) else frozenset())
        if name in manifest.secrets and field not in public:
            revealed.add(name)
    return frozenset(revealed)


def _is_certificate(manifest: Manifest, name: str) -> bool:
    return name in manifest.secrets and manifest.secrets[name].type.startswith("cert-")


def ways_to_secrets(manifest: Manifest, marble: Marble) -> dict[str, tuple[str, ...]]:
    """Each secret whose secret part this type gets, and the ways by which: `file /conf/key`, `model digits`."""
    ways: dict[str, list[str]] = {}
    for name, way in (
        *_by_contents(manifest, marble),
        *_by_ports(manifest, marble),
        *_by_models(manifest, marble),
    ):
        known = ways.setdefault(name, [])
        if way not in known:
            known.append(way)
    return {name: tuple(found) for name, found in sorted(ways.items())}


def _by_contents(manifest: Manifest, marble: Marble) -> Iterator[tuple[str, str]]:
    for kind, contents in (("file", marble.parameters.files), ("variable", marble.parameters.env)):
        for place, content in sorted(contents.items()):
            for name in revealed_secrets(manifest, content):
                yield name, f"{kind} {place}"


def _by_ports(manifest: Manifest, marble: Marble) -> Iterator[tuple[str, str]]:
    for tag in marble.tls:
        rule = manifest.tls.get(tag)
        for port in rule.incoming if rule else ():
            if port.certificate:
                yield port.certificate, f"TLS tag {tag}"


def _by_models(manifest: Manifest, marble: Marble) -> Iterator[tuple[str, str]]:
    for name in marble.models:
        model = manifest.models.get(name)
        if model and model.key:
            yield model.key, f"model {name}"


def holders(manifest: Manifest) -> dict[str, frozenset[str]]:
    """Each secret that some marble gets, and the types of marbles that get it."""
    found: dict[str, set[str]] = {}
    for marble_name, marble in manifest.marbles.items():
        for secret in ways_to_secrets(manifest, marble):
            found.setdefault(secret, set()).add(marble_name)
    return {secret: frozenset(names) for secret, names in sorted(found.items())}


def permissions(manifest: Manifest, user: str) -> frozenset[tuple[str, str]]:
    """What this user's roles add up to: (action in lower case, name of a resource; empty for manifest and log)."""
    granted: set[tuple[str, str]] = {(READ_LOG, "")} if manifest.users[user].read_log else set()
    for role_name in manifest.users[user].roles:
        role = manifest.roles.get(role_name)
        if role is None:
            continue
        resources = ("",) if role.resource_type == "Manifest" else role.resource_names
        granted |= {(action.lower(), resource) for action in role.actions for resource in resources}
    return frozenset(granted)


def users_who_may(manifest: Manifest, action: str, resource: str = "") -> tuple[str, ...]:
    """The users with this permission, sorted."""
    return tuple(sorted(user for user in manifest.users if (action, resource) in permissions(manifest, user)))
