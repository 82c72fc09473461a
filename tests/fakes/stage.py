"""A whole mesh on this machine, from an owner's first command to a prediction, in whichever TEE a test likes.

    with Stage(folder, tee=Tee.SGX, ...) as stage:
        stage.prepare()                       # coordinator, trust, manifest, key
        server = stage.start_server()         # premain, which becomes tacit-serve

Programs run as a user starts them; `run` gives the words that start one.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fakes import models
from tacit.pki import issue_self_signed
from tacit.vault import seal_folder

KEY = bytes(range(32))
PROGRAMS = Path(sys.executable).parent
PATIENCE = 180.0  # seconds; the machine may be busy
_LISTENING = re.compile(r"(client|mesh) API listening on (\S+?)[\"\s]")

Run = Callable[[str], list[str]]


def installed(program: str) -> list[str]:
    """A program of this installation."""
    return [str(PROGRAMS / (program if program == "tacit" else f"tacit-{program}"))]


@dataclass
class Running:
    """A program that was started, and the file of what it says."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str) -> str:
        limit = time.monotonic() + PATIENCE
        while text not in self.said:
            if self.process.poll() is not None and text not in self.said:
                raise AssertionError(f"{self.log.name} ended before it said {text!r}:\n{self.said}")
            assert time.monotonic() < limit, f"{self.log.name} never said {text!r}:\n{self.said}"
            time.sleep(0.05)
        return self.said

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@dataclass
class Stage:
    """`package` gives the package of `coordinator` or `marble`, as a manifest has it; `env` is for every program."""

    folder: Path
    tee: str
    package: Callable[[str], dict[str, Any]]
    run: Run = installed
    env: Mapping[str, str] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)
    collateral: str = ""
    host: str = ""
    mesh: str = ""

    def environment(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C.UTF-8", **self.env, **more}

    def start(self, program: str, *words: str, run: Run | None = None, **more: str) -> Running:
        log = self.folder / f"{len(self.running)}-{program}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*(run or self.run)(program), *words],
                env=self.environment(**more),
                cwd=self.folder,
                stdout=out,
                stderr=out,
            )
        self.running.append(Running(process, log))
        return self.running[-1]

    def try_to(self, *words: str, run: Run | None = None, **more: str) -> "subprocess.CompletedProcess[str]":
        """A command of the owner's."""
        return subprocess.run(
            [*(run or self.run)("tacit"), *words],
            env=self.environment(**more),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def types(self, *words: str) -> str:
        done = self.try_to(*words)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start_coordinator(self, **more: str) -> Running:
        """The coordinator; on the same ports as before, if there was one."""
        ports = {"CLIENT": self.host.replace("localhost", "127.0.0.1"), "MESH": self.mesh}
        addresses = {f"EDG_COORDINATOR_{name}_ADDR": at or "127.0.0.1:0" for name, at in ports.items()}
        coordinator = self.start("coordinator", **addresses, EDG_COORDINATOR_SEAL_DIR="seal", **more)
        found = dict(_LISTENING.findall(coordinator.wait_for("client API listening")))
        self.host, self.mesh = found["client"].replace("127.0.0.1", "localhost"), found["mesh"]
        return coordinator

    def prepare(self, **config: object) -> None:
        """Model, coordinator, trust, manifest, key: what an owner does once."""
        source = self.folder / "source"
        source.mkdir()
        (source / "model.onnx").write_bytes(models.onnx_model())
        info = seal_folder(source, self.folder / "m.capsule", KEY, name="m", version=1)
        self.start_coordinator()
        self.trust()
        owner = issue_self_signed([], common_name="owner", now=datetime.now(UTC))
        (self.folder / "owner.crt").write_bytes(owner.certificate_pem)
        (self.folder / "owner.key").write_bytes(owner.key_pem)
        manifest = self.manifest(info.id.hex(), owner.certificate_pem.decode(), config)
        (self.folder / "manifest.json").write_text(json.dumps(manifest))
        self.types("manifest", "set", "manifest.json", self.host)
        (self.folder / "key.json").write_text(json.dumps({"model_key": {"Key": models_key()}}))
        self.types("secret", "set", "key.json", self.host, "--cert", "owner.crt", "--key", "owner.key")

    def trust(self) -> None:
        """Say once what to expect of the coordinator."""
        (self.folder / "coordinator.json").write_text(json.dumps(self.package("coordinator")))
        place = ["--collateral", self.collateral] if self.collateral else []
        self.types("trust", self.host, "--tee", self.tee, "--package", "coordinator.json", *place)

    def manifest(self, model: str, owner: str, config: Mapping[str, object]) -> dict[str, Any]:
        serve = ["tacit-serve", "--model_name=m", f"--model_base_path={self.folder / 'm.capsule'}"]
        ports = ["--host=127.0.0.1", "--port=-1", f"--port_file={self.folder / 'ports.json'}"]
        role = {"ResourceType": "Secrets", "ResourceNames": ["model_key"], "Actions": ["WriteSecret", "ReadSecret"]}
        server = {
            "Package": "server",
            "AllowedNames": ["localhost", "127.0.0.1"],
            "Models": ["m"],
            "Parameters": {"Argv": [*serve, *ports]},
        }
        return {
            "Packages": {"server": self.package("marble")},
            "Marbles": {"server": server},
            "Models": {"m": {"Format": "capsule", "ID": model, "MinVersion": 1, "Key": "model_key"}},
            "Secrets": {"model_key": {"Type": "symmetric-key", "Size": 256, "UserDefined": True}},
            "Users": {"owner": {"Certificate": owner, "Roles": ["owner"]}},
            "Roles": {"owner": role},
            **({"Config": dict(config)} if config else {}),
        }

    def start_server(self, *words: str, run: Run | None = None, **more: str) -> Running:
        """Premain, which becomes the server once it is attested."""
        given = {
            "EDG_MARBLE_TYPE": "server",
            "EDG_MARBLE_COORDINATOR_ADDR": self.mesh,
            "EDG_MARBLE_UUID_FILE": str(self.folder / "uuid"),
            "TACIT_COORDINATOR_API": self.host,
            "TACIT_COORDINATOR_PACKAGE": "coordinator.json",
            "TACIT_ACTIVATION_TIMEOUT": "5",
        }
        return self.start("premain", *words, run=run, **{k: v for k, v in (given | more).items() if v})

    @property
    def port(self) -> int:
        found: int = json.loads((self.folder / "ports.json").read_text())["grpc"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for one in reversed(self.running):
            one.end()


def models_key() -> str:
    """The model's key as a file of secrets has it."""
    import base64

    return base64.b64encode(KEY).decode()


def through(launcher: Path, folder: Path) -> Run:
    """The words that start a program by `fakes/enclave.py`."""
    words: Sequence[str] = (sys.executable, str(launcher), str(folder))
    return lambda program: [*words, program]
