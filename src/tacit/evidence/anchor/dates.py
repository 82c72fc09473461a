"""Is it in force? Windows of time, all of them in UTC and ending before the second that they name."""

from datetime import datetime

from tacit.errors import CollateralTimeError


def check_window(what: str, begin: datetime, end: datetime, *, now: datetime) -> None:
    """Refuse what is not in force at `now`: from `begin` on, and no longer at `end`.

    Raises:
        CollateralTimeError: before `begin`, or at `end` or later.
    """
    if now < begin:
        raise CollateralTimeError(
            f"{what} is dated {begin:%Y-%m-%d %H:%M}Z, in the future of this machine's clock ({now:%Y-%m-%d %H:%M}Z); "
            "set the clock"
        )
    if now >= end:
        raise CollateralTimeError(
            f"{what} expired on {end:%Y-%m-%d %H:%M}Z, it is now {now:%Y-%m-%d %H:%M}Z; fetch fresh collateral"
        )
