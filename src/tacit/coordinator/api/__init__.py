"""How does one speak with a coordinator?

`rest` is the client API over HTTPS with its `routes`, `mesh` the activation of marbles over gRPC. Both turn bytes into questions to
`core`, and values or errors into bytes; they decide nothing.
"""
