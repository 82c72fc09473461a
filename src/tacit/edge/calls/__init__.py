"""How does a stream of HTTP/2 become a call of a handler?

In: the bytes of a connection, and handlers. Out: tasks that run the handlers, and the bytes of their answers. `messages`
is what gRPC puts on HTTP/2, `exchange` one request and its end, `multiplexer` all those of one connection, and `prompt`
begins work that nearly always ends without waiting.
"""

from tacit.edge.calls.multiplexer import Multiplexer

__all__ = ["Multiplexer"]
