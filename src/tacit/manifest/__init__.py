"""What is allowed?

A manifest comes in as bytes. What goes out: the manifest as a value, its defects, the permission for one piece of
evidence to be one package, and the contents of a marble's files and variables. Nothing here opens a file or a socket,
and nothing asks for the time.
"""

from tacit.manifest.appraise import Appraisal, Unattested, appraise
from tacit.manifest.check import check_manifest
from tacit.manifest.codec import parse_manifest, parse_manifest_strict
from tacit.manifest.model import Manifest, Package
from tacit.manifest.template import TemplateData, render
from tacit.manifest.template import TemplateSecret as TemplateSecret

__all__ = [
    "Appraisal",
    "Manifest",
    "Package",
    "TemplateData",
    "Unattested",
    "appraise",
    "check_manifest",
    "parse_manifest",
    "parse_manifest_strict",
    "render",
]
