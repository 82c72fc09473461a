"""Who is activated? Each release is stored before it is answered, and each refusal is told."""

from tacit.coordinator.activate import (
    OPERATORS_OWN,
    Order,
    Permission,
    Release,
    parse_uuid,
    permit,
    release,
    require_budget,
    require_known_type,
)
from tacit.coordinator.core.world import Settings, World
from tacit.coordinator.log.entries import Entry, marble_activated
from tacit.coordinator.state import Activated, Event, Holdings
from tacit.coordinator.updates.audit import Audit
from tacit.coordinator.updates.ledger import Ledger, Step
from tacit.errors import TacitError
from tacit.manifest import Unattested


class Activations:
    """Releases of a ledger. The order of the checks stands in `tacit.coordinator.activate`."""

    def __init__(self, ledger: Ledger, audit: Audit, settings: Settings, world: World) -> None:
        self._ledger = ledger
        self._audit = audit
        self._settings = settings
        self._world = world

    def activate(self, order: Order) -> Release:
        """What a marble gets, if its evidence is that of an allowed package.

        Raises:
            IllegalTransitionError: no manifest is set.
            ActivationError: the manifest or the evidence does not allow it.
            InputError: not a UUID.
            PkiError: the signing request cannot be used.
            TemplateError: the manifest's templates cannot be filled in.
            StateError: the activation could not be counted; nothing is released.
        """
        world = self._world
        try:
            released, entry = self._activate(order)
        except TacitError as exc:
            more = {"cause": str(exc.__cause__)} if isinstance(exc.__cause__, OPERATORS_OWN) else {}
            world.log.warning(
                "activation refused", marbleType=order.marble_type[:200], reason=exc.reason, error=str(exc), **more
            )
            self._audit.write(self._audit.activation_refused(order, exc))
            raise
        world.log.info(entry.event, **entry.fields)
        return released

    def _activate(self, order: Order) -> tuple[Release, Entry]:
        holdings, manifest = self._ledger.opened(Event.ACTIVATE)
        marble = require_known_type(manifest, order.marble_type)
        require_budget(holdings, order.marble_type, marble)
        permission = permit(manifest, marble, order, verify=self._world.verify)
        uuid = parse_uuid(order.uuid)
        released = release(
            permission,
            holdings,
            manifest,
            order,
            uuid=uuid,
            now=self._world.clock(),
            mark=self._settings.mark,
        )
        entry = _activation(released, permission, order, marble.package)
        if not marble.max_activations:
            self._ledger.note(entry)
            return released, entry

        def build(now_held: Holdings) -> Step:
            # Asked again: others may have come first since.
            require_budget(now_held, order.marble_type, marble)
            return Activated(order.marble_type, uuid), (entry,)

        self._ledger.commit(build)
        return released, entry


def _activation(released: Release, permission: Permission, order: Order, package: str) -> Entry:
    claims = None if isinstance(permission, Unattested) else permission.claims
    return marble_activated(
        marble_type=order.marble_type,
        uuid=released.uuid,
        package=package,
        tee="unattested" if claims is None else str(claims.tee),
        measurement="" if claims is None else claims.measurement.hex(),
        secrets=released.secret_names,
    )
