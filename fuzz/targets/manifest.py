"""A manifest, read as MarbleRun reads it and strictly: both agree, and what both take can be checked, linted and compared."""

from tacit.errors import ManifestError
from tacit.manifest import Manifest, check_manifest, parse_manifest, parse_manifest_strict
from tacit.manifest.codec import parse_package
from tacit.manifest.review import compare_manifests, lint_manifest

REFUSALS = (ManifestError,)
LIMIT = 8192  # bytes


def check(data: bytes) -> None:
    strict = _strict(data)
    try:
        parsed = parse_manifest(data)
    except ManifestError:
        assert strict is None, "the strict reading takes what the lenient one refuses"
        raise
    assert (strict is None) == bool(parsed.leniencies), "every leniency is named, and nothing else is refused strictly"
    assert strict is None or strict == parsed.manifest
    lint_manifest(parsed.manifest, leniencies=parsed.leniencies)
    assert compare_manifests(parsed.manifest, parsed.manifest) == ()
    check_manifest(parsed.manifest, environ={})


def _strict(data: bytes) -> Manifest | None:
    try:
        parse_package(data)
    except ManifestError:
        pass
    try:
        return parse_manifest_strict(data)
    except ManifestError as exc:
        assert exc.defects, "a strict refusal says where"
        return None
