"""Everything that can go wrong, in one tree.

Each class carries a `reason`: a short code that logs, tests and programs match on, while the message is for people.
A message says what was found, what was expected and how to mend it. It never holds a secret.

    TacitError
    ├── UsageError                     the command was typed wrongly (exit 2)
    ├── InputError                     a file or a value that somebody gave
    │   ├── FileInputError             a file that is missing, unreadable, too large or not what it should be
    │   └── FieldError                 a field of a request, with what is wrong with it
    ├── EvidenceError                  who is it? not proven
    │   ├── EvidenceFormatError        bytes that are no quote
    │   ├── EvidenceSignatureError     a signature in the quote does not hold
    │   ├── UntrustedRootError         the chain ends at another root
    │   ├── CollateralError            collateral that is malformed, forged or for another platform
    │   ├── CollateralTimeError        collateral or certificate outside its validity
    │   ├── CollateralAbsentError      no collateral to be had: no address, no answer, or not what was asked for
    │   ├── CollateralRollbackError    an older judgement of a platform than one already seen
    │   ├── RevokedError               a certificate or TCB level that was revoked
    │   ├── TcbError                   no TCB level fits, or an unknown status
    │   ├── BindingError               report data does not bind this key, role and nonce
    │   └── PlatformError              the simulated platform's folder is missing, damaged or foreign
    ├── TeeError                       the TEE around this process gives no evidence or no key
    ├── AppraisalError                 authentic, but not allowed
    │   ├── WrongTeeError              another kind of TEE than the package names
    │   ├── DebugNotAllowedError       a debug enclave
    │   ├── MeasurementError           a measurement differs from the package's, or it names none
    │   ├── SignerError                MRSIGNER, product id or security version do not fit
    │   ├── TcbStatusError             TCB status, version or advisory that the package does not accept
    │   ├── UncheckedError             a check of the evidence that was not made
    │   ├── WeaknessError              something that the evidence says against itself
    │   └── HardwareError              a platform that the package does not allow, or refuses
    ├── ManifestError                  a manifest with a defect, and its path
    │   └── TemplateError              a template in a manifest that cannot be filled in
    ├── CoordinatorError               who gets what: refused
    │   ├── IllegalTransitionError     not possible in the coordinator's state
    │   ├── UnauthorizedError          no user has this client certificate
    │   ├── ForbiddenError             the user may not do this
    │   ├── FeatureOffError            a feature that the manifest does not switch on
    │   ├── NotSetError                asked for something that was never set
    │   ├── RecoveryError              a secret that does not open the sealed state
    │   ├── UpdateError                an update that does not fit the pending one
    │   ├── NoUpdateError              no update is pending
    │   ├── GoneError                  a way that was closed for good
    │   ├── ActivationError            a marble that gets nothing
    │   └── SecretError                a secret that cannot be made, set or read
    ├── LogError                       an export of the audit log that was cut, reordered or altered
    ├── StateError                     what lies in the coordinator's folder
    │   ├── SealedStateError           the file was cut, reordered or altered
    │   ├── SealingKeyError            the sealing key is missing or does not open the state
    │   ├── BackupError                a backup that cannot be made, read or brought back
    │   └── RollbackError              an older state than one already seen
    ├── PkiError                       a certificate, key or request that cannot be used
    ├── VaultError                     a model at rest
    │   ├── CapsuleFormatError         not a capsule, or a damaged header
    │   ├── CapsuleKeyError            the key does not open this capsule
    │   ├── CapsuleChunkError          a chunk was altered, cut or moved
    │   ├── CapsuleIndexError          a file was renamed, resized, added or taken away
    │   └── PlaintextError             plaintext would have reached a disk
    ├── ModelError                     a model that cannot be read or served
    │   ├── ModelFormatError           not a model of the format that was promised
    │   ├── ModelNotAllowedError       the manifest does not name this model
    │   ├── EngineCrashedError         the engine died of this model, in a process of its own
    │   └── WorkerError                a process that runs a model says what makes no sense
    ├── RequestError                   a prediction that was refused; has a canonical status
    ├── ClusterError                   a Kubernetes cluster, and what runs on it
    │   ├── ClusterAccessError         no kubeconfig, nobody answers there, or it does not know us
    │   ├── ClusterRightError          this user may not do that there
    │   ├── ClusterConflictError       somebody else made or changed the object in the meantime
    │   ├── InstallError               what cannot be installed, does not come up, or does not go away
    │   └── AdmissionError             a review that is none, or a pod that is not to start as it is
    └── ConnectError                   the other end
        ├── UnreachableError           nobody answers at this address
        ├── TlsError                   TLS failed: certificate, name or version
        ├── PeerError                  the other end answered with an error, or with nonsense
        ├── PortInUseError             a port that another process holds
        ├── NotTrustedError            nothing is known yet about what to expect of this coordinator
        └── PinMismatchError           another root certificate or manifest than the one that was pinned
            └── InRecoveryError        its state is still sealed, so its root is one for the meantime
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from tacit.status import Status as Status  # noqa: PLC0414 -- given on from here


class TacitError(Exception):
    """Any refusal or failure that has a message for a person."""

    reason: ClassVar[str] = "tacit"

    def anew(self) -> Self:
        """An error of the same class and words, which was raised nowhere yet; for whoever keeps one for later callers."""
        # One that is raised again and again holds a trace of every time, and with it all that those callers held.
        made = type(self).__new__(type(self), *self.args)
        made.__dict__.update(self.__dict__)
        return made


class UsageError(TacitError):
    """The command was typed wrongly."""

    reason = "usage"


class InputError(TacitError):
    """A value that somebody gave cannot be used."""

    reason = "input"


class FileInputError(InputError):
    """A file is missing, unreadable, too large or not what it should be."""

    reason = "file"


class FieldError(InputError):
    """A field of a request cannot be used: `field` names it, `detail` says what is wrong with it."""

    reason = "field"

    def __init__(self, message: str, *, field: str, detail: str) -> None:
        super().__init__(message)
        self.field = field
        self.detail = detail


# ---- evidence


class EvidenceError(TacitError):
    """Evidence does not prove who sent it."""

    reason = "evidence"
    step: str = ""
    """Number and name of the step of verification that refused (docs/evidence.md)."""

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message} (step {self.step})" if self.step else message


class EvidenceFormatError(EvidenceError):
    """Bytes that are not evidence."""

    reason = "evidence-format"


class EvidenceSignatureError(EvidenceError):
    """A signature in the evidence does not hold."""

    reason = "evidence-signature"


class UntrustedRootError(EvidenceError):
    """The certificate chain of the evidence ends at another root."""

    reason = "untrusted-root"


class CollateralError(EvidenceError):
    """Collateral is malformed, forged or for another platform."""

    reason = "collateral"


class CollateralTimeError(EvidenceError):
    """Collateral or a certificate is not valid at this time."""

    reason = "collateral-time"


class CollateralAbsentError(EvidenceError):
    """There is no collateral to verify by: nothing says where it is, nobody answers, or with something else."""

    reason = "collateral-absent"


class CollateralRollbackError(EvidenceError):
    """Collateral that judges a platform by older knowledge than was already seen."""

    reason = "collateral-rollback"


class RevokedError(EvidenceError):
    """A certificate or a TCB level was revoked."""

    reason = "revoked"


class TcbError(EvidenceError):
    """No TCB level fits the platform, or its status is unknown."""

    reason = "tcb"


class BindingError(EvidenceError):
    """Report data does not bind the expected key, role and nonce."""

    reason = "binding"


class PlatformError(EvidenceError):
    """The simulated platform's folder is missing, damaged or foreign."""

    reason = "platform"


class TeeError(TacitError):
    """The TEE around this process gives no evidence or no key, or is of a kind that is not known."""

    reason = "tee"


# ---- appraisal


class AppraisalError(TacitError):
    """Evidence is authentic, but the manifest does not allow what it says."""

    reason = "appraisal"


class WrongTeeError(AppraisalError):
    """Another kind of TEE than the package names."""

    reason = "wrong-tee"


class DebugNotAllowedError(AppraisalError):
    """A debug enclave, whose memory its host can read."""

    reason = "debug"


class MeasurementError(AppraisalError):
    """The measurement differs from the package's UniqueID."""

    reason = "measurement"


class SignerError(AppraisalError):
    """Signer, product id or security version do not fit the package."""

    reason = "signer"


class TcbStatusError(AppraisalError):
    """The platform's TCB status, a version or an advisory is not accepted by the package."""

    reason = "tcb-status"


class UncheckedError(AppraisalError):
    """A check of the evidence was not made."""

    reason = "unchecked"


class WeaknessError(AppraisalError):
    """The evidence says something against itself that the package does not accept."""

    reason = "weakness"


class HardwareError(AppraisalError):
    """The package does not allow this platform, or refuses it."""

    reason = "hardware"


# ---- manifest


@dataclass(frozen=True, slots=True)
class Defect:
    """One defect of a manifest: where it stands (`Packages.server.UniqueID`, line and column from 1) and what it is."""

    path: str
    line: int
    column: int
    message: str


class ManifestError(TacitError):
    """A manifest has a defect; the message says where.

    `defects` lists each one, where more than the first was looked for.
    """

    reason = "manifest"

    def __init__(self, message: str, *, defects: tuple[Defect, ...] = ()) -> None:
        super().__init__(message)
        self.defects = defects


class TemplateError(ManifestError):
    """A template in a manifest cannot be filled in."""

    reason = "template"


# ---- coordinator


class CoordinatorError(TacitError):
    """The coordinator refuses."""

    reason = "coordinator"


class IllegalTransitionError(CoordinatorError):
    """Not possible in the coordinator's state."""

    reason = "state"


class UnauthorizedError(CoordinatorError):
    """No user of the manifest has this client certificate."""

    reason = "unauthorized"


class ForbiddenError(CoordinatorError):
    """The user may not do this."""

    reason = "forbidden"


class FeatureOffError(CoordinatorError):
    """The manifest does not switch this feature on."""

    reason = "feature-off"


class NotSetError(CoordinatorError):
    """Asked for something that was never set."""

    reason = "not-set"


class RecoveryError(CoordinatorError):
    """A recovery secret does not open the sealed state, or not for whoever gave it."""

    reason = "recovery"


class UpdateError(CoordinatorError):
    """An update that does not fit the one that is pending."""

    reason = "update"


class NoUpdateError(CoordinatorError):
    """No update is pending."""

    reason = "no-update"


class GoneError(CoordinatorError):
    """A way that was closed for good; says which one to take."""

    reason = "gone"


class ActivationError(CoordinatorError):
    """A marble is not activated, and gets nothing."""

    reason = "activation"


class SecretError(CoordinatorError):
    """A secret cannot be made, set or read."""

    reason = "secret"


class LogError(TacitError):
    """An export of the audit log was cut, reordered or altered, or is not the coordinator's."""

    reason = "log"


class StateError(TacitError):
    """What lies in the coordinator's folder cannot be used."""

    reason = "stored-state"


class SealedStateError(StateError):
    """The sealed file was cut, reordered or altered."""

    reason = "sealed-state"


class SealingKeyError(StateError):
    """The sealing key is missing or does not open the state."""

    reason = "sealing-key"


class BackupError(StateError):
    """A backup of the sealed state cannot be made, read or brought back."""

    reason = "backup"


class RollbackError(StateError):
    """An older state than one that was already seen."""

    reason = "rollback"


# ---- keys and models at rest


class PkiError(TacitError):
    """A certificate, key or signing request cannot be used."""

    reason = "pki"


class VaultError(TacitError):
    """A model at rest cannot be opened or written."""

    reason = "vault"


class CapsuleFormatError(VaultError):
    """Not a capsule, or one whose header is damaged."""

    reason = "capsule-format"


class CapsuleKeyError(VaultError):
    """The key does not open this capsule."""

    reason = "capsule-key"


class CapsuleChunkError(VaultError):
    """A chunk was altered, cut or moved."""

    reason = "capsule-chunk"


class CapsuleIndexError(VaultError):
    """A file of the capsule was renamed, resized, added or taken away."""

    reason = "capsule-index"


class PlaintextError(VaultError):
    """Plaintext of a model would have reached a disk."""

    reason = "plaintext"


# ---- serving


class ModelError(TacitError):
    """A model cannot be read or served."""

    reason = "model"


class ModelFormatError(ModelError):
    """Not a model of the format that was promised."""

    reason = "model-format"


class ModelNotAllowedError(ModelError):
    """The manifest does not name this model, so an attested server does not load it."""

    reason = "model-not-allowed"


class EngineCrashedError(ModelError):
    """The engine died of this model, in a process of its own."""

    reason = "engine-crashed"


class WorkerError(ModelError):
    """A process that runs a model says what makes no sense."""

    reason = "worker"


class RequestError(TacitError):
    """A prediction was refused. `status` is the canonical code; each protocol's edge turns it into its own number."""

    reason = "request"

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


# ---- a cluster


class ClusterError(TacitError):
    """A Kubernetes cluster did not do what was asked of it."""

    reason = "cluster"


class ClusterAccessError(ClusterError):
    """There is no way to a cluster: no kubeconfig, nobody answers, or it does not know who asks."""

    reason = "cluster-access"


class ClusterRightError(ClusterError):
    """Whoever asks may not do this on the cluster."""

    reason = "cluster-right"


class ClusterConflictError(ClusterError):
    """Somebody else made or changed the object since it was read."""

    reason = "cluster-conflict"


class InstallError(ClusterError):
    """Something cannot be installed, does not come up, or does not go away."""

    reason = "install"


class AdmissionError(ClusterError):
    """A review that is none, or a pod that is not to start as it is."""

    reason = "admission"


# ---- the other end


class ConnectError(TacitError):
    """The other end cannot be used."""

    reason = "connect"


class UnreachableError(ConnectError):
    """Nobody answers at this address."""

    reason = "unreachable"


class TlsError(ConnectError):
    """TLS failed: certificate, name or version."""

    reason = "tls"


class PeerError(ConnectError):
    """The other end answered with an error, or with nonsense."""

    reason = "peer"


class PortInUseError(ConnectError):
    """Another process holds the port."""

    reason = "port-in-use"


class NotTrustedError(ConnectError):
    """Nothing is known yet about what to expect of this coordinator."""

    reason = "not-trusted"


class PinMismatchError(ConnectError):
    """Another root certificate or manifest than the one that was pinned."""

    reason = "pin"


class InRecoveryError(PinMismatchError):
    """The coordinator's state is still sealed: until it is recovered it shows a root for the meantime."""

    reason = "in-recovery"
