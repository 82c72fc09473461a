"""Is it this very connection? TLS whose exporter evidence is bound to, so that nobody stands in between.

In: an address, and who judges each new connection before anything else is sent on it. Out: a channel for HTTP
(`channel`), what each connection has to prove (`proof`), and the blocking socket below it all (`socket`).
"""
