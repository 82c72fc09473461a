"""What does one ask of a running coordinator?

In: `tacit status|certificate|secret|recover|recover-with-signature|log` and their options. Out: MarbleRun's lines and files.
"""

from tacit.cli.coordinator.certificate import app as certificate_app
from tacit.cli.coordinator.log import app as log_app
from tacit.cli.coordinator.recover import recover
from tacit.cli.coordinator.recover import signed_app as signed_recovery_app
from tacit.cli.coordinator.secret import app as secret_app
from tacit.cli.coordinator.status import status

__all__ = ["certificate_app", "log_app", "recover", "secret_app", "signed_recovery_app", "status"]
