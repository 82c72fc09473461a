"""How do bytes arrive and leave?

In: handlers that take bytes and give bytes. Out: listeners on ports, with TLS, limits and an end that drains.
uvicorn, grpclib and grpcio carry the bytes today; nothing above this room knows that.
"""

from tacit.edge.data import serve_grpc_data
from tacit.edge.http import serve_http
from tacit.edge.listener import GrpcCall, GrpcHandler, HttpHandler, HttpRequest, HttpResponse, Listener
from tacit.edge.mesh import serve_grpc

__all__ = [
    "GrpcCall",
    "GrpcHandler",
    "HttpHandler",
    "HttpRequest",
    "HttpResponse",
    "Listener",
    "serve_grpc",
    "serve_grpc_data",
    "serve_http",
]
