"""How does a Python program call the servers of a coordinator that it has checked, for hours and not once?

In: what `tacit trust` was told. Out: `Session`, with models (`model`), and drop-ins for clients that others wrote
(`dropin`, `aio` for asyncio, `adapters` for Triton's and TensorFlow Serving's).
`renewal` attests the coordinator again by age and on rotation; `current` holds what is made for the servers' chain,
`servers` attests a server itself.
"""

from tacit.client.session.model import DEFAULT_SIGNATURE, AsyncModel, Model
from tacit.client.session.python import MAX_AGE, Session, connect

__all__ = ["DEFAULT_SIGNATURE", "MAX_AGE", "AsyncModel", "Model", "Session", "connect"]
