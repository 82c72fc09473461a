"""The program `tacit-premain`: becomes a server, once a coordinator has attested it.

    tacit-premain [COMMAND [ARGUMENT...]]

It activates as the marble that the environment names, places the files, sets the environment and starts the command of
the manifest in its own place; COMMAND is for manifests that name none. The environment is read here and nowhere else:

- EDG_MARBLE_TYPE (required), EDG_MARBLE_COORDINATOR_ADDR (localhost:2001), EDG_MARBLE_DNS_NAMES (localhost),
  EDG_MARBLE_UUID_FILE or EDG_UUID_FILE (uuid), EDG_DECRYPT_MODEL=1: as MarbleRun and its TensorFlow demo have them.
- EDG_LOG_FORMAT=json: each line of this program's log is one JSON object, with level, ts and msg.
- TACIT_COORDINATOR_PACKAGE: file with the package of the coordinator, as `tacit package-info coordinator --output json`
  writes it; no other program is obeyed. A must in a real TEE, from the measured configuration.
- TACIT_COORDINATOR_KEY_BOUND=1: that coordinator is MarbleRun's own, whose evidence binds its key and no connection.
- TACIT_COORDINATOR_API (the coordinator's host, port 4433): client API that shows the coordinator's evidence.
- TACIT_TRUST_DIR (the id's file with `.trust` behind it): what was seen of the coordinator; an older state is refused.
- TACIT_COLLATERAL_BUNDLE: file with the collateral of a coordinator in a real TEE; without one TACIT_PCCS (intel) or
  TACIT_KDS (amd): address of the service that has it.
- TACIT_COORDINATOR_CERTIFICATE: instead of a package, a file with the coordinator's intermediate certificate.
- TACIT_ACTIVATION_TIMEOUT (60): seconds to wait for a coordinator with a manifest.
- TACIT_MEMORY_DIR (/dev/shm): the tmpfs for keys. TACIT_ENCRYPTED_MODEL: what EDG_DECRYPT_MODEL decrypts. Attested, both
  count in the manifest's Env alone.

In a real TEE, found by what is there, it makes that TEE's evidence, and ends where one of these is set; elsewhere:

- TACIT_PLATFORM: folder of the simulated platform. TACIT_SIMULATE (simulated): the kind of TEE to simulate, simulated,
  simulated-tdx or simulated-snp. TACIT_UNATTESTED=1: send no evidence.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from tacit.errors import FileInputError, PlatformError, TacitError
from tacit.evidence import Tee, TrustAnchor
from tacit.evidence.anchor import MAKERS
from tacit.evidence.claims import Issuer
from tacit.marble.activate import parse_settings
from tacit.marble.place import remove_memory_folder
from tacit.marble.premain import Launch, prepare
from tacit.marble.recognise import load_recognition
from tacit.programs.memory import keep_memory_private


def main() -> None:
    """Run the program; it returns to nobody."""
    sys.exit(run(sys.argv[1:]))


def run(command: Sequence[str]) -> int:
    """Activate and become the command; the exit code where that failed."""
    if command[:1] in (["--help"], ["-h"]):
        print(__doc__)  # noqa: T201  # what was asked for
        return 0
    keep_memory_private()
    try:
        settings = parse_settings(os.environ, working_folder())
        issuer = load_issuer()
        launch = prepare(
            settings,
            issuer,
            load_recognition(settings, load_coordinator_anchor),
            command=command,
            inherited=dict(os.environ),
            programs=Path(sys.executable).parent,
            now=datetime.now(UTC),
            randomness=os.urandom,
            say=say,
        )
        say(f"starting {launch.argv[0]}")
        start(launch)
    except TacitError as error:
        say(f"Error: {error}")
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    return 1


def working_folder() -> Path:
    """Raises: FileInputError, where it was removed."""
    try:
        return Path.cwd()
    except OSError as exc:
        raise FileInputError(
            f"the folder that this was started in cannot be told ({exc.strerror}); start it in another"
        ) from exc


def load_issuer() -> Issuer | None:
    """The TEE around this process, or None if it was told to go without one.

    Going without is only by the exact variable and never by absence: a machine without a platform is an error.
    Raises: PlatformError, UsageError, TeeError.
    """
    from tacit.programs.tee.surroundings import find_real_tee, load_real_tee, load_simulated, refuse_pretence

    tee = find_real_tee()
    if tee is not None:
        refuse_pretence(tee, os.environ)
        return load_real_tee(tee)
    if os.environ.get("TACIT_UNATTESTED") == "1":
        return None
    try:
        return load_simulated(os.environ, program="marble", now=datetime.now(UTC))
    except PlatformError as exc:
        raise PlatformError(f"{exc}. For a coordinator in unattested mode set TACIT_UNATTESTED=1") from exc


def load_coordinator_anchor(tee: Tee) -> TrustAnchor:
    """The root that a coordinator's evidence has to end at. Raises: PlatformError."""
    if not tee.is_simulated:
        return MAKERS[tee]
    from tacit.evidence.fetch import load_anchor
    from tacit.evidence.issue import default_platform_folder

    return load_anchor(default_platform_folder(os.environ), tee=tee)


def say(line: str) -> None:
    """One line for the log, as MarbleRun's premain marks its own."""
    # The other end's words may be in it, and nothing of theirs is to look like a line of ours, or to steer a terminal.
    line = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in line)
    now = datetime.now(UTC)
    as_json = os.environ.get("EDG_LOG_FORMAT", "").lower() == "json"
    shown = render_json(line, now) if as_json else f"[PreMain] {now.astimezone():%Y/%m/%d %H:%M:%S} {line}"
    print(shown, file=sys.stderr, flush=True)  # noqa: T201  # the log of this program


def render_json(line: str, now: datetime) -> str:
    """A line for programs that collect logs, with the keys that the coordinator's log has."""
    level = "error" if line.startswith("Error: ") else "warn" if line.startswith("warning: ") else "info"
    return json.dumps({"level": level, "ts": now.timestamp(), "msg": f"[PreMain] {line}"})


def start(launch: Launch) -> NoReturn:
    """Become the command. Raises: TacitError, if the system refuses to start it."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so in the command
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(launch.program, launch.argv, launch.environment)  # noqa: S606  # no shell is wanted
    except OSError as exc:
        remove_memory_folder(launch.memory)
        raise TacitError(f"cannot start {launch.program}: {exc.strerror}") from exc
