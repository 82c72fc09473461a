"""The webhook's certificate is kept: made, renewed, shared by all replicas, and named where the cluster looks for it.

One Secret holds it. Whoever finds it due writes a new one over exactly the version that was read; of several replicas
one succeeds, and the others read what it wrote. A certificate serves only once the webhook's configuration trusts it.
"""

import asyncio
import base64
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tacit.errors import ClusterConflictError, ClusterError, InstallError, TacitError
from tacit.kube.injector.certificate import LIFETIME, Held, read_secret, renew_secret, service_names
from tacit.kube.objects import SECRET, WEBHOOK, Cluster, Object

_LOG = logging.getLogger("tacit.kube.injector")
_TRIES = 10  # of a change that others change too
_EVERY = 30.0  # seconds between two looks; a renewed certificate reaches every replica in this time
_SOON = 2.0  # seconds until the next look after a failure


@dataclass(frozen=True, slots=True)
class Place:
    """Where the certificate is kept, and whose it is."""

    namespace: str
    secret: str
    configuration: str
    service: str = "marble-injector"


class Upkeep:
    """The certificate of one replica; `credentials` is what its port serves with."""

    def __init__(
        self, cluster: Cluster, place: Place, *, clock: Callable[[], datetime], lifetime: timedelta = LIFETIME
    ) -> None:
        self._cluster, self._place, self._clock, self._lifetime = cluster, place, clock, lifetime
        self._held: Held | None = None

    def credentials(self) -> tuple[bytes, bytes]:
        """Certificate and key, PEM. Raises: InstallError before the first look."""
        if self._held is None:
            raise InstallError("the webhook has no certificate yet")
        return self._held.certificate_pem, self._held.key_pem

    async def look(self) -> None:
        """Take the certificate that all replicas share, and see to it that there is one, in date and trusted.

        Raises: ClusterError.
        """
        held = await self._take()
        await self._announce(held)
        if self._held is None or held.certificate_pem != self._held.certificate_pem:
            _LOG.info("serving with a new certificate")
        self._held = held

    async def run(self, *, every: float = _EVERY) -> None:
        """Look again and again, until cancelled. A failure is logged: what is held serves on."""
        while True:
            await asyncio.sleep(every)
            while True:
                try:
                    await self.look()
                    break
                except TacitError as exc:
                    _LOG.warning("the webhook's certificate could not be looked after: %s", exc)
                except Exception:  # if this ended, nobody would notice before the certificate has run out
                    _LOG.exception("the webhook's certificate could not be looked after")
                await asyncio.sleep(min(every, _SOON))

    async def _take(self) -> Held:
        place = self._place
        names = service_names(place.service, place.namespace)
        for _ in range(_TRIES):
            secret = await self._cluster.get(SECRET, place.secret, namespace=place.namespace)
            if secret is None:
                raise InstallError(
                    f"there is no Secret {place.secret} in {place.namespace}; the chart makes it, empty: install it again"
                )
            held = read_secret(secret, names=names, now=self._clock())
            if held is not None:
                return held
            renewed = renew_secret(secret, names=names, now=self._clock(), lifetime=self._lifetime)
            try:
                await self._cluster.replace(SECRET, renewed, namespace=place.namespace)
            except ClusterConflictError:
                continue  # another replica was first
            _LOG.info("made a new certificate for the webhook")
        raise ClusterConflictError(f"the Secret {place.secret} changes each time it is to be written")

    async def _announce(self, held: Held) -> None:
        """Name the certificate in the webhook's configuration, beside the one before."""
        name = self._place.configuration
        wanted = base64.b64encode(held.bundle_pem).decode()
        for _ in range(_TRIES):
            configuration = await self._cluster.get(WEBHOOK, name)
            if configuration is None:
                raise ClusterError(f"there is no {WEBHOOK.name} {name}; the chart makes it: install it again")
            operations = self._operations(configuration, wanted)
            if not operations:
                return
            try:
                await self._cluster.patch(WEBHOOK, name, operations)
            except ClusterConflictError:
                continue
            return
        raise ClusterConflictError(f"the {WEBHOOK.name} {name} changes each time it is to be written")

    def _operations(self, configuration: Object, wanted: str) -> list[Object]:
        """The patch that makes every webhook of our service trust it; nothing where they do."""
        found: list[Object] = []
        for at, webhook in enumerate(configuration.get("webhooks") or []):
            client: dict[str, Any] = webhook.get("clientConfig") or {}
            service = client.get("service") or {}
            ours = (service.get("name"), service.get("namespace")) == (self._place.service, self._place.namespace)
            if ours and client.get("caBundle") != wanted:
                found.append({"op": "add", "path": f"/webhooks/{at}/clientConfig/caBundle", "value": wanted})
        if not found:
            return []
        version = (configuration.get("metadata") or {}).get("resourceVersion")
        return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *found]
