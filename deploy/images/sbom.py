"""The bill of materials of an image, in CycloneDX: Debian's packages, the wheels with the hashes of the lock, ours."""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_NAMESPACE = uuid.UUID("5b0a3c1e-6f6e-5d5a-9f0b-2f6a1f3f7f10")  # of our documents; the content makes the rest


def render_sbom(image: str, *, version: str, debian: Sequence[str], wheels: Sequence[Component], epoch: int) -> str:
    """The document, the same for the same contents. `debian` are the packages' control files."""
    components = [*map(_debian_component, debian), *wheels]
    own = Component(
        name=image,
        version=version,
        type=ComponentType.CONTAINER,
        bom_ref=image,
        purl=PackageURL("oci", None, image, version),
    )
    components.append(
        Component(name="tacit", version=version, bom_ref="tacit", purl=PackageURL("pypi", None, "tacit", version))
    )
    names = "\n".join(sorted(f"{one.name} {one.version}" for one in components))
    bom = Bom(
        components=components,
        serial_number=uuid.uuid5(_NAMESPACE, f"{image} {version}\n{names}"),
        metadata=BomMetaData(component=own, timestamp=datetime.fromtimestamp(epoch, UTC)),
    )
    bom.register_dependency(own, components)
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n"


def _debian_component(control: str) -> Component:
    fields = HeaderParser().parsestr(control)
    name, version = fields["Package"], fields["Version"]
    qualifiers = {"arch": fields["Architecture"], "distro": "debian-12"}
    purl = PackageURL("deb", "debian", name, version, qualifiers=qualifiers)
    return Component(name=name, version=version, bom_ref=str(purl), purl=purl)


def load_wheels(report: Path) -> list[Component]:
    """What pip says that it unpacked: each wheel with its hash."""
    return [_wheel_component(entry) for entry in json.loads(report.read_text())["install"]]


def _wheel_component(entry: Mapping[str, Any]) -> Component:
    name, version = entry["metadata"]["name"], entry["metadata"]["version"]
    purl = PackageURL("pypi", None, name.lower().replace("_", "-"), version)
    digest = entry["download_info"]["archive_info"]["hashes"]["sha256"]
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest)]
    return Component(name=name, version=version, bom_ref=str(purl), purl=purl, hashes=hashes)
