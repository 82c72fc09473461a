"""How do I talk to one I have checked?

In: an address, what to expect there (`trust.TrustStore`), the time and a nonce. Out: an attested coordinator, calls
of its API, and predictions over TLS that is verified against its intermediate alone, never the system's certificates.

`trust` remembers, `connect` attests, `coordinator` and `inference` call, `session` joins them for Python programs.
"""

from tacit.client.address import Address, parse_address

__all__ = ["Address", "parse_address"]
