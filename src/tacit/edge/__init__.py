"""How do bytes arrive and leave?

In: handlers that take bytes and give bytes. Out: listeners on ports, with TLS, limits and an end that drains.
`server.serve` is HTTP/1.1 and HTTP/2 with gRPC on one port, by `http1`, `http2` and `calls`; `data.serve_grpc_data` is
the same for gRPC by grpcio, for whoever prefers that. Each is imported by its own name, so that a program carries only
the one that it serves with.
"""

from tacit.edge.listener import (
    Exporter,
    GrpcCall,
    GrpcHandler,
    GrpcMethods,
    GrpcStreaming,
    HttpHandler,
    HttpRequest,
    HttpResponse,
    Listener,
)

__all__ = [
    "Exporter",
    "GrpcCall",
    "GrpcHandler",
    "GrpcMethods",
    "GrpcStreaming",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "Listener",
]
