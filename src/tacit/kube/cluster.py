"""The one door to Kubernetes: kr8s makes the calls, and every foreign error becomes one of ours, with what to do."""

import asyncio
import json
import os
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import httpx
import httpx_ws
import kr8s
import kr8s.asyncio
import kr8s.asyncio.objects
import yaml

from tacit.errors import ClusterAccessError, ClusterConflictError, ClusterError, ClusterRightError
from tacit.kube.objects import Kind, Object

_TIMEOUT = 30.0  # seconds for an answer
# The newer one can also say that the input ends, which is not relied on.
_EXEC_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_INPUT, _OUTPUT, _COMPLAINTS, _STATUS = 0, 1, 2, 3  # channels of an exec
_FRAME = 32 << 10  # bytes of one message, as kubectl sends them
_MAX_SAID = 1 << 20  # bytes that are kept of what a command says
_SILENCE = 120.0  # seconds in which a command may say nothing
_PAGE = 500  # objects of one answer


class KubernetesCluster:
    """The cluster of the kubeconfig, or the one around this pod. Used as an asynchronous context manager."""

    def __init__(self, *, kubeconfig: Path | None = None, context: str | None = None) -> None:
        self._kubeconfig, self._context = kubeconfig, context
        self._api: kr8s.asyncio.Api | None = None
        self._folder = ""
        self._before: str | None = None
        self._inside = 0

    async def __aenter__(self) -> Self:
        # kr8s leaves the kubeconfig's keys in temporary files; ours are in a folder that goes with us.
        self._folder = tempfile.mkdtemp(prefix="tacit-")
        try:
            with self._errors("GET /version"):
                self._api = await kr8s.asyncio.api(
                    kubeconfig=None if self._kubeconfig is None else str(self._kubeconfig), context=self._context
                )
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        self._api.timeout = _TIMEOUT
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._api is not None and self._api._session is not None:
            await self._api._session.aclose()

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context."""
        return str(self._open().namespace)

    async def get(self, kind: Kind, name: str, *, namespace: str = "") -> Object | None:
        """See `Cluster`."""
        try:
            return await self._call("GET", kind, f"{kind.plural}/{name}", namespace)
        except _AbsentError:
            return None

    async def find(self, kind: Kind, *, namespace: str = "", labels: str = "") -> list[Object]:
        """See `Cluster`."""
        found: list[Object] = []
        more: str | None = ""
        while more is not None:
            query = {"limit": str(_PAGE), "labelSelector": labels, "continue": more}
            query = {key: value for key, value in query.items() if value}
            try:
                page = await self._call("GET", kind, kind.plural, namespace, params=query)
            except _AbsentError:
                return found
            found += page.get("items") or []
            more = (page.get("metadata") or {}).get("continue") or None
        return found

    async def create(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        """See `Cluster`."""
        return await self._call("POST", kind, kind.plural, namespace, json=value)

    async def replace(self, kind: Kind, value: Object, *, namespace: str = "") -> Object:
        """See `Cluster`."""
        name = (value.get("metadata") or {}).get("name")
        return await self._call("PUT", kind, f"{kind.plural}/{name}", namespace, json=value)

    async def patch(self, kind: Kind, name: str, operations: list[Object], *, namespace: str = "") -> Object:
        """See `Cluster`."""
        headers = {"Content-Type": "application/json-patch+json"}
        return await self._call("PATCH", kind, f"{kind.plural}/{name}", namespace, json=operations, headers=headers)

    async def delete(self, kind: Kind, name: str, *, namespace: str = "") -> bool:
        """See `Cluster`."""
        body = {"propagationPolicy": "Foreground"}
        try:
            await self._call("DELETE", kind, f"{kind.plural}/{name}", namespace, json=body)
        except _AbsentError:
            return False
        return True

    async def may(self, verb: str, kind: Kind, *, namespace: str = "") -> bool:
        """See `Cluster`."""
        asked = {"verb": verb, "group": kind.group, "resource": kind.plural}
        if kind.namespaced:
            asked["namespace"] = namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        where = Kind("authorization.k8s.io/v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False)
        answer = await self._call("POST", where, where.plural, "", json=review)
        return bool((answer.get("status") or {}).get("allowed"))

    async def version(self) -> str:
        """See `Cluster`."""
        with self._errors("GET /version"):
            async with self._open().call_api("GET", version="", base="/version") as response:
                return str(response.json().get("gitVersion", ""))

    @asynccontextmanager
    async def forward(self, pod: Object, port: int) -> AsyncIterator[int]:
        """See `Cluster`."""
        target = kr8s.asyncio.objects.Pod(dict(pod), api=self._open())
        async with target.portforward(port, local_port="auto") as local:
            yield int(local)

    async def execute(self, pod: Object, command: Sequence[str], *, content: Iterable[bytes] = ()) -> tuple[int, bytes]:
        """See `Cluster`."""
        metadata = pod.get("metadata") or {}
        name, container = metadata.get("name"), str(pod["spec"]["containers"][0]["name"])
        wanted: list[tuple[str, str | int | float | bool | None]] = [("command", word) for word in command]
        wanted += [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        with self._errors(f"exec in the pod {name}"), _first_error():
            async with self._open().open_websocket(
                version="v1",
                url=f"pods/{name}/exec",
                namespace=str(metadata.get("namespace")),
                subprotocols=_EXEC_PROTOCOLS,
                params=httpx.QueryParams(wanted),
            ) as socket:
                return await _Conversation(socket).hold(content)

    def _open(self) -> kr8s.asyncio.Api:
        if self._api is None:
            raise ClusterAccessError("the cluster was not opened")
        return self._api

    async def _call(self, method: str, kind: Kind, url: str, namespace: str, **more: Any) -> dict[str, Any]:
        inside = namespace if kind.namespaced and namespace else None
        with self._errors(f"{method} {kind.name} in {namespace}" if inside else f"{method} {kind.name}"):
            async with self._open().call_api(
                method, version=kind.version, namespace=inside, url=url, **more
            ) as response:
                answer: dict[str, Any] = response.json()
                return answer

    @contextmanager
    def _temporaries(self) -> Iterator[None]:
        # Calls overlap: the first one sets it, and the last one sets it back.
        if not self._inside:
            self._before, tempfile.tempdir = tempfile.tempdir, self._folder
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                tempfile.tempdir = self._before

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        where = _kubeconfigs(self._kubeconfig)
        try:
            with _no_cluster(where), self._temporaries():
                yield
        except kr8s.ServerError as exc:
            raise _refusal(what, where, exc) from exc


class _Conversation:
    """What is said to a command in a pod, and by it."""

    def __init__(self, socket: httpx_ws.AsyncWebSocketSession) -> None:
        self._socket = socket
        self._said: dict[int, bytes] = {_OUTPUT: b"", _COMPLAINTS: b""}
        self._heard = asyncio.Event()

    async def hold(self, content: Iterable[bytes]) -> tuple[int, bytes]:
        """Send the input while the output comes: the exit code, and what was said (or, where that failed, complained)."""
        sending = asyncio.create_task(self._send(content))
        try:
            while True:
                message = await self._socket.receive_bytes(timeout=_SILENCE)
                channel, text = message[0], message[1:]
                if channel == _STATUS:
                    code = _exit_code(json.loads(text))
                    return code, self._said[_COMPLAINTS if code else _OUTPUT]
                if channel in self._said and len(self._said[channel]) < _MAX_SAID:
                    self._said[channel] += text
                    self._heard.set()
        except (httpx_ws.HTTPXWSException, TimeoutError) as exc:
            raise ClusterAccessError("the connection to the pod broke off; run the same command again") from exc
        finally:
            sending.cancel()
            with suppress(asyncio.CancelledError, httpx_ws.HTTPXWSException, OSError, anyio.ClosedResourceError):
                await sending

    async def _send(self, content: Iterable[bytes]) -> None:
        """Nothing between here and the pod has to keep more than one piece."""
        for number, piece in enumerate(content):
            while self._said[_OUTPUT].count(b"\n") < number:
                self._heard.clear()
                await self._heard.wait()
            for start in range(0, len(piece), _FRAME):
                await self._socket.send_bytes(bytes([_INPUT]) + piece[start : start + _FRAME])


@contextmanager
def _first_error() -> Iterator[None]:
    """The error itself, where a library hands out a group of them."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def _exit_code(status: Object) -> int:
    """What an exec ended with. Raises: ClusterError, where it did not even start."""
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or []:
        if cause.get("reason") == "ExitCode":
            return int(cause.get("message", 1))
    raise ClusterError(f"the command did not run in the pod: {str(status.get('message'))[:300]}")


class _AbsentError(ClusterError):
    """There is no such object, or no such kind of objects."""

    reason = "cluster-absent"


def _refusal(what: str, where: str, exc: kr8s.ServerError) -> ClusterError:
    """What the cluster's answer means for the person who asked."""
    status = 0 if exc.response is None else exc.response.status_code
    said = " ".join(str(exc).split())[:500]
    if status == 401:
        return ClusterAccessError(f"the cluster does not know who asks; renew the credentials of {where}")
    if status == 403:
        return ClusterRightError(f"not allowed on this cluster: {said}")
    if status in (404, 405):
        return _AbsentError(f"{what}: {said}")
    # A test of a JSON patch that does not hold is answered as a value that is not valid.
    if status == 409 or (status == 422 and "testing" in said):
        return ClusterConflictError(f"{what}: {said}")
    return ClusterError(f"{what}: the cluster answered {status or 'nothing'}: {said}")


def _kubeconfigs(named: Path | None) -> str:
    if named is not None:
        return str(named)
    return os.environ.get("KUBECONFIG") or "~/.kube/config"


@contextmanager
def _no_cluster(where: str) -> Iterator[None]:
    """Turn whatever keeps us from the cluster into one line. Raises: ClusterAccessError."""
    advice = "name one with KUBECONFIG, and try `kubectl version`"
    try:
        yield
    except (kr8s.APITimeoutError, TimeoutError) as exc:
        raise ClusterAccessError(f"the cluster of {where} does not answer in time; {advice}") from exc
    except (httpx.TransportError, ssl.SSLError, anyio.ClosedResourceError) as exc:
        detail = " ".join(str(exc).split())[:200] or type(exc).__name__
        raise ClusterAccessError(f"the cluster of {where} does not answer ({detail}); {advice}") from exc
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, yaml.YAMLError) as exc:
        raise ClusterAccessError(f"{where} names no cluster that can be used ({_unusable(exc)}); {advice}") from exc
    except RuntimeError as exc:
        if type(exc) is not RuntimeError:
            raise  # a fault of ours
        # kr8s says so where the program that a kubeconfig names for credentials fails, and what that complained of.
        detail = " ".join(str(exc).partition("\n")[2].split())[:300] or "and says nothing of why"
        raise ClusterAccessError(
            f"the program that {where} names for credentials fails ({detail}); log in anew with it, and try `kubectl version`"
        ) from exc


def _unusable(exc: Exception) -> str:
    if isinstance(exc, KeyError):
        return f"it lacks {exc}"
    if isinstance(exc, FileNotFoundError) and exc.filename is None:
        return "a file with a certificate or key that it names is not there"
    return " ".join(str(exc).split())[:200] or type(exc).__name__
