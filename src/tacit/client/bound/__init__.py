"""Is it this very connection? TLS whose exporter evidence is bound to, and the drop-ins that carry other clients over it.

In: an address, and who judges each new connection before anything else is sent on it. Out: a channel for HTTP
(`channel`), and ways for clients that others wrote: `transport` for httpx, `grpc` for gRPC, which is key-bound.
"""
