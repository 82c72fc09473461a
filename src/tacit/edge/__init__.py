"""How do bytes arrive and leave?

In: handlers that take bytes and give bytes. Out: listeners on ports, with TLS, limits and an end that drains.
`http.serve_http` is HTTP/1.1 by uvicorn, `mesh.serve_grpc` gRPC that sees any client certificate by grpclib, and
`data.serve_grpc_data` gRPC for large messages by grpcio; nothing above this room knows those libraries. Each is imported
by its own name, so that a program carries only the one that it serves with.
"""

from tacit.edge.listener import GrpcCall, GrpcHandler, HttpHandler, HttpRequest, HttpResponse, Listener

__all__ = ["GrpcCall", "GrpcHandler", "HttpHandler", "HttpRequest", "HttpResponse", "Listener"]
