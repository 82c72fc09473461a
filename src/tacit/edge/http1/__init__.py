"""What does a client say in HTTP/1.1, and what is it told?

In: the bytes of one connection, and a handler. Out: answers, in the order of the requests. `connection` is the parser's
side and the socket's, `repeats` reads a request like the one before without a parser.
"""

from tacit.edge.http1.connection import Http1

__all__ = ["Http1"]
