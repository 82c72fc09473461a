"""Where collateral comes from, as a program's environment says it; an empty variable counts as unset.

- TACIT_PCCS: address of the service for Intel's collateral; the word `intel` stands for Intel's own.
- TACIT_KDS: address of the service for AMD's certificates; the word `amd` stands for AMD's own.
- TACIT_COLLATERAL_BUNDLE: file that `tacit evidence bundle` wrote, or with the collateral of one platform.
- TACIT_COLLATERAL_CACHE: folder in which what was fetched is kept.

A service that is not named is never asked.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

from tacit.evidence.fetch import CollateralSource, Places
from tacit.evidence.fetch.amd import AMD_SERVICE
from tacit.evidence.fetch.intel import INTEL_SERVICE

_OLD_BUNDLE = "TACIT_INTEL_COLLATERAL"  # the name from when it held the collateral of one platform of Intel's


def read_places(given: Mapping[str, str]) -> Places | None:
    """The places that the environment names; None where it names none."""
    pccs, kds, cache = (given.get(name) for name in ("TACIT_PCCS", "TACIT_KDS", "TACIT_COLLATERAL_CACHE"))
    bundle = given.get("TACIT_COLLATERAL_BUNDLE") or given.get(_OLD_BUNDLE)
    if not (pccs or kds or bundle or cache):
        return None
    return Places(
        intel=INTEL_SERVICE if pccs == "intel" else pccs or None,
        amd=AMD_SERVICE if kds == "amd" else kds or None,
        bundle=Path(bundle) if bundle else None,
        cache=Path(cache) if cache else None,
    )


def open_source(places: Places, *, note: Callable[[str], None]) -> CollateralSource:
    """A source for a program that runs on: what has to be fetched anew is, in threads beside its work.

    Raises:
        CollateralAbsentError: an address that is none, or no bundle where one was named.
        CollateralError: a bundle that cannot be read.
    """

    def start(work: Callable[[], None]) -> None:
        Thread(target=work, name="collateral", daemon=True).start()

    return CollateralSource(places, start=start, note=note)
