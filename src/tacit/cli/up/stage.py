"""One model, one coordinator, one server on the simulated platform: what `tacit up` and the demo put on stage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tacit.cli.up.ports import Ports
from tacit.cli.up.processes import Program, Programs, clean_environment, find_program
from tacit.errors import ModelError
from tacit.evidence.claims import PackageInfo

MARBLE = "server"
KEY_NAME = "model_key"
_START = 60.0  # seconds; importing an inference engine on a busy laptop takes a while
_OPENING = 20e6  # bytes of a model that even a slow machine opens and compiles in a second


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything lies and listens. `folder` holds the capsule, the manifest, the sealed state and the logs."""

    folder: Path
    platform: Path
    model: str
    capsule: Path
    ports: Ports

    @property
    def host(self) -> str:
        """Client API of the coordinator."""
        return f"localhost:{self.ports.client}"

    @property
    def server(self) -> str:
        """The server's gRPC address."""
        return f"localhost:{self.ports.grpc}"

    @property
    def rest(self) -> str:
        """The server's REST address."""
        return f"localhost:{self.ports.rest}"

    @property
    def roots(self) -> Path:
        """The coordinator's intermediate certificate, once it was checked: what servers and clients go by."""
        return self.folder / "servers.crt"

    @property
    def reader(self) -> tuple[Path, Path]:
        """Certificate and key of whoever reads the coordinator's log."""
        return self.folder / "reader.crt", self.folder / "reader.key"

    @property
    def seal_folder(self) -> Path:
        """The coordinator's sealed state."""
        return self.folder / "coordinator"

    def manifest(
        self, package: PackageInfo, *, model_id: bytes, version: int, owner_pem: str, reader_pem: str
    ) -> bytes:
        """The manifest that lets this server, and no other, have this model's key.

        The owner may set the key; the reader may read the log, and nothing else.
        """
        argv = [
            "tacit-serve",
            f"--model_name={self.model}",
            f"--model_base_path={self.capsule}",
            f"--port={self.ports.grpc}",
            f"--rest_api_port={self.ports.rest}",
            "--host=127.0.0.1",  # one's own machine: nobody else on the network is served
        ]
        manifest = {
            "Packages": {"server": {"TEE": "simulated", "UniqueID": package.unique_id.hex()}},
            "Marbles": {
                MARBLE: {
                    "Package": "server",
                    "AllowedNames": ["localhost", "127.0.0.1", "::1"],
                    "Models": [self.model],
                    "Parameters": {"Argv": argv},
                }
            },
            "Models": {self.model: {"Format": "capsule", "ID": model_id.hex(), "MinVersion": version, "Key": KEY_NAME}},
            "Secrets": {KEY_NAME: {"Type": "symmetric-key", "Size": 256, "UserDefined": True}},
            "Users": {
                "owner": {"Certificate": owner_pem, "Roles": ["key-owner"]},
                "reader": {"Certificate": reader_pem, "ReadLog": True},
            },
            "Roles": {
                "key-owner": {"ResourceType": "Secrets", "ResourceNames": [KEY_NAME], "Actions": ["WriteSecret"]}
            },
        }
        return (json.dumps(manifest, indent=2) + "\n").encode()

    def start_coordinator(self, programs: Programs) -> Program:
        """Start the coordinator and wait until its client API accepts. Raises: ConnectError."""
        program = programs.start(
            "coordinator",
            [find_program("tacit-coordinator")],
            env=clean_environment(
                {
                    "TACIT_PLATFORM": str(self.platform),
                    "EDG_COORDINATOR_CLIENT_ADDR": f"127.0.0.1:{self.ports.client}",
                    "EDG_COORDINATOR_MESH_ADDR": f"127.0.0.1:{self.ports.mesh}",
                    "EDG_COORDINATOR_DNS_NAMES": "localhost",
                    "EDG_COORDINATOR_SEAL_DIR": str(self.seal_folder),
                }
            ),
        )
        # By its own word: at a port that was taken meanwhile somebody else's coordinator would answer.
        program.wait_until(
            lambda: program.says("client API listening") and program.says("mesh API listening"), seconds=_START
        )
        return program

    def start_server(self, programs: Programs, extra: Mapping[str, str] | None = None) -> Program:
        """Start premain, which becomes the server once it was attested. Does not wait."""
        return programs.start(
            "server",
            [find_program("tacit-premain")],
            env=clean_environment(
                {
                    "TACIT_PLATFORM": str(self.platform),
                    "EDG_MARBLE_TYPE": MARBLE,
                    "EDG_MARBLE_COORDINATOR_ADDR": f"localhost:{self.ports.mesh}",
                    "EDG_MARBLE_DNS_NAMES": "localhost",
                    "EDG_MARBLE_UUID_FILE": str(self.folder / "uuid"),
                    "TACIT_COORDINATOR_CERTIFICATE": str(self.roots),
                    **(extra or {}),
                }
            ),
            cwd=self.folder,
        )

    def wait_for_server(self, server: Program) -> None:
        """Wait until the model is being served.

        Raises:
            ModelError: the server cannot serve it, with the engine's reason.
            ConnectError: the server ended, or is not ready in time; with its last word.
        """

        def ready() -> bool:
            events = server.events()
            for event in events:
                if event.get("event") in ("model-failed", "model-storage-failed"):
                    raise ModelError(
                        f"the server cannot serve {self.model}: {event.get('error') or event.get('message')}"
                    )
            return any(event.get("event") == "ready" for event in events)

        size = self.capsule.stat().st_size if self.capsule.exists() else 0
        server.wait_until(ready, seconds=_START + size / _OPENING)
