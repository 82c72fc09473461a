"""From a trained model to an attested, encrypted prediction, and four attacks that are refused. See README.md."""

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from train import Digits, train

import tacit
from tacit.cli.platform import ensure_platform
from tacit.cli.up.command import attest, release, trust_own
from tacit.cli.up.examples import describe
from tacit.cli.up.interrupts import Interrupts
from tacit.cli.up.ports import Ports
from tacit.cli.up.processes import Program, Programs
from tacit.cli.up.stage import Stage
from tacit.client.inference import RestServingClient
from tacit.client.trust import TrustStore, default_trust_folder
from tacit.errors import ConnectError, TacitError
from tacit.evidence.issue import init_platform
from tacit.pki import issue_self_signed
from tacit.vault.files import seal_folder

BOLD, GREEN, RED, DIM, PLAIN = (
    ("\033[1m", "\033[32m", "\033[31m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("",) * 5
)
SHADES = " .:-=+*#%@"


class Steps:
    """Numbered lines, each with the seconds it took."""

    def __init__(self) -> None:
        self._count = 0
        self._since = time.monotonic()

    def done(self, text: str) -> None:
        now = time.monotonic()
        self._count += 1
        print(f"{BOLD}{self._count:2}{PLAIN}  {text} {DIM}({now - self._since:.1f} s){PLAIN}", flush=True)
        self._since = now


def draw(images: np.ndarray, predictions: np.ndarray, labels: np.ndarray) -> str:
    """Eight scans side by side, 8 x 8 pixels each, with what the attested server says they are."""
    rows = []
    for row in range(8):
        pixels = [
            "".join(
                SHADES[min(int(value * len(SHADES) / 17), len(SHADES) - 1)] * 2 for value in image.reshape(8, 8)[row]
            )
            for image in images
        ]
        rows.append("    " + "  ".join(pixels))
    said = [
        f"{GREEN if prediction == label else RED}{f'says {prediction}':^16}{PLAIN}"
        for prediction, label in zip(predictions, labels, strict=True)
    ]
    return "\n".join((*rows, "    " + "  ".join(said)))


def refused(what: str, error: TacitError | str) -> None:
    """One attack and the reason of its refusal."""
    reason = str(error).strip()
    if reason.startswith("{"):  # a line of a program's log
        event = json.loads(reason)
        reason = f"{event['reason']}: {event['error']}"
    print(f"    {RED}refused{PLAIN} {what}\n            {DIM}{reason}{PLAIN}", flush=True)


def expect_refusal(what: str, program: Program, text: str, *, seconds: float = 30.0) -> None:
    """Wait until `program` says why it gives up. A demo that cannot show the refusal has failed."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        lines = program.log.read_text(errors="replace").splitlines()
        reason = next((line for line in reversed(lines) if text in line), None)
        if reason is not None:
            refused(what, reason)
            return
        if program.exit_code() is not None:
            break
        time.sleep(0.05)
    raise ConnectError(f"{what} was not refused with {text!r}; the last lines:\n{program.last_lines(5)}")


def tampered_capsule(stage: Stage, programs: Programs) -> None:
    """Flip one bit of the encrypted model where the storage lies, and start the server again."""
    original = stage.capsule.read_bytes()
    altered = bytearray(original)
    altered[len(altered) // 2] ^= 1
    stage.capsule.write_bytes(altered)
    server = stage.start_server(programs)
    expect_refusal("a tampered capsule", server, "capsule-chunk")
    server.stop()
    stage.capsule.write_bytes(original)


def changed_server(stage: Stage, programs: Programs) -> None:
    """Change one file of the server, so that it would leak every input, and ask for the key with it."""
    copy = stage.folder / "changed"
    shutil.copytree(Path(tacit.__file__).parent, copy / "tacit", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "tacit" / "serving" / "plane.py").open("a") as file:
        file.write("\n# a line that sends every input elsewhere\n")
    server = stage.start_server(programs, {"PYTHONPATH": str(copy)})
    expect_refusal("a changed server file", server, "measurement")
    server.stop()


def other_manifest(stage: Stage) -> None:
    """A client that pinned another manifest meets this coordinator."""
    store = TrustStore(default_trust_folder(os.environ))
    right = store.load_expectation(stage.host).manifest_fingerprint
    store.pin_manifest(stage.host, secrets.token_bytes(32))
    try:
        tacit.connect(stage.host)
    except TacitError as error:
        refused("a client that pins another manifest", error)
    else:
        raise ConnectError("a client that pinned another manifest was served")
    finally:
        store.pin_manifest(stage.host, right)


def older_state(stage: Stage, programs: Programs, coordinator: Program, older: Path) -> None:
    """Start the coordinator on a copy of its state from before the key was handed over."""
    coordinator.kill()
    newest = stage.folder / "newest"
    stage.seal_folder.rename(newest)
    shutil.copytree(older, stage.seal_folder)
    coordinator = stage.start_coordinator(programs)
    try:
        attest(stage)
    except TacitError as error:
        refused("a coordinator on an older copy of its state", error)
    else:
        raise ConnectError("a coordinator on an older copy of its state was believed")
    coordinator.stop()
    shutil.rmtree(stage.seal_folder)
    newest.rename(stage.seal_folder)


def run(folder: Path, programs: Programs, ports: Ports, *, keep: bool) -> None:
    """The whole demo, in `folder`."""
    steps = Steps()
    print(f"{BOLD}SIMULATED TEE: the whole way is real, the protection is not.{PLAIN} Everything lies in {folder}.")
    digits = train(folder)
    steps.done(f"trained on scikit-learn's digits: {digits.plain_accuracy:.1%} of {len(digits.labels)} held-back scans")

    if keep:
        platform = ensure_platform()  # the user's own, so that what is pasted later finds it
        steps.done(f"simulated platform of this machine: {platform}")
    else:
        platform = folder / "platform"
        init_platform(platform, now=datetime.now(UTC))
        os.environ["TACIT_PLATFORM"] = str(platform)
        steps.done("made a simulated platform, with a root of its own")

    stage = Stage(folder, platform, "digits", folder / "digits.capsule", ports)
    key = secrets.token_bytes(32)
    info = seal_folder(digits.model, stage.capsule, key, name="digits", version=1)
    digits.model.unlink()
    steps.done(
        f"encrypted it: {stage.capsule.stat().st_size:,} bytes, id {info.id.hex()[:16]}...; the plain file is gone"
    )

    coordinator = stage.start_coordinator(programs)
    attested = trust_own(stage)
    assert attested.claims is not None
    steps.done(f"coordinator at {stage.host}: {len(attested.claims.checks)} checks of its evidence, root pinned")

    owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
    older = folder / "older-state"
    release(
        stage, attested, owner, model_id=info.id, key=key, before_key=lambda: shutil.copytree(stage.seal_folder, older)
    )
    steps.done("manifest set and pinned; the model's key is the coordinator's secret now")

    server = stage.start_server(programs)
    stage.wait_for_server(server)
    steps.done(f"server attested against the manifest, key released, model opened in memory: {stage.server}")

    predict(stage, digits, stage.roots, steps)

    if keep:
        print(f"{BOLD}Ask it:{PLAIN}\n\n{describe(stage, stage.roots)}")
        print(f"Logs lie in {folder / 'logs'}. Ctrl-C ends everything.", flush=True)
        try:
            signal.pause()
        finally:
            TrustStore(default_trust_folder(os.environ)).forget(stage.host)  # nothing will be there any more
        return
    print(f"{BOLD}Four attacks:{PLAIN}")
    server.stop()
    tampered_capsule(stage, programs)
    changed_server(stage, programs)
    other_manifest(stage)
    older_state(stage, programs, coordinator, older)
    steps.done("each refused, with its reason")


def predict(stage: Stage, digits: Digits, roots: Path, steps: Steps) -> None:
    """Ask over gRPC and REST, draw some, and compare with the plain model."""
    with tacit.connect(stage.host) as session:
        answer = session.model("digits", address=stage.server).predict(digits.images)  # probabilities, (n, 10)
        found = np.asarray(answer).argmax(axis=1)
    accuracy = float((found == digits.labels).mean())
    print(draw(digits.images[:6], found[:6], digits.labels[:6]))
    if not np.array_equal(found, digits.plain_predictions):
        raise ConnectError("the attested server does not answer as the plain model does")
    steps.done(
        f"gRPC over TLS, {'SIMULATED ' if session.simulated else ''}session: accuracy {accuracy:.1%}, equal to the plain model's"
    )
    with RestServingClient(stage.rest, roots_pem=roots.read_bytes()) as rest:
        over_rest = rest.predict("digits", {"X": digits.images[:32]}).outputs["output"].argmax(axis=1)
    if not np.array_equal(over_rest, found[:32]):
        raise ConnectError("REST and gRPC do not agree")
    steps.done("REST over TLS: the same answers")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running, and print how to talk to it")
    keep = parser.parse_args().keep
    started = time.monotonic()
    try:
        with Interrupts() as interrupts, contextlib.ExitStack() as cleanup:
            with interrupts.held():
                place = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="tacit-demo-")))
                ports = cleanup.enter_context(Ports.reserved())
                programs = cleanup.enter_context(Programs(place / "logs", interrupts))
            if not keep:
                # What the demo learns about its own coordinator is nothing to keep among the user's expectations.
                os.environ["XDG_CONFIG_HOME"] = str(place / "config")
            run(place, programs, ports, keep=keep)
    except TacitError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nEnded, with everything that was started.")
        return 0 if keep else 130
    print(f"{GREEN}done{PLAIN} in {time.monotonic() - started:.0f} s; everything that was started has ended")
    return 0


if __name__ == "__main__":
    sys.exit(main())
