"""Who makes evidence here? The TEE around this process, found by what is there. Touches the world; for composition roots.

In: the kernel's and Gramine's files, or the folder of a simulated platform. Out: an `Issuer`: evidence over 64 bytes, and
a key for sealing.

`around` finds the TEE. `gramine` is SGX, `guests` TDX and SNP, by `tsm` (the kernel's reports) or `devices` (its older
way); all of them ask a `kernel`. `folder`, `program` and `simulated` are the simulated platform's.
"""

from tacit.evidence.claims import Issuer as Issuer
from tacit.evidence.claims import PackageInfo as PackageInfo
from tacit.evidence.issue.around import find_tee, load_tee
from tacit.evidence.issue.folder import default_platform_folder, export_platform, import_platform, init_platform
from tacit.evidence.issue.program import load_inventory
from tacit.evidence.issue.simulated import SimulatedTee, load_package_info, load_simulated_tee
from tacit.evidence.simulated.platform import PLATFORM_FILE as PLATFORM_FILE

__all__ = [
    "SimulatedTee",
    "default_platform_folder",
    "export_platform",
    "find_tee",
    "import_platform",
    "init_platform",
    "load_inventory",
    "load_package_info",
    "load_simulated_tee",
    "load_tee",
]
