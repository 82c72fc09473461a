"""Which TEE is it, and what does it show? The simulated platform of this machine, and evidence of any.

The one room of the command line that reaches the evidence I/O.
"""

from tacit.cli.platform.evidence import app as evidence_app
from tacit.cli.platform.folder import app, ensure_platform, package_of, platform_folder, whole_platform
from tacit.cli.platform.gather import check_place
from tacit.cli.platform.package import package_info, snp_measure

__all__ = [
    "app",
    "check_place",
    "ensure_platform",
    "evidence_app",
    "package_info",
    "package_of",
    "platform_folder",
    "snp_measure",
    "whole_platform",
]
