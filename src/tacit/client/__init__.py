"""How do I talk to one I have checked?

In: an address, what to expect there (`TrustStore`), the time and a nonce. Out: a coordinator that was attested, calls
of its API, and predictions over TLS that is verified against its intermediate alone, never the system's certificates.

`trust` remembers, `connect` attests, `coordinator` and `inference` call, `session` joins them for Python programs.
"""

from tacit.client.address import Address, parse_address
from tacit.client.trust import UNATTESTED, Expectation, Sighting, TrustStore

__all__ = ["UNATTESTED", "Address", "Expectation", "Sighting", "TrustStore", "parse_address"]
