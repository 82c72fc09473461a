"""How does an Open Inference Protocol client speak to us?

In: serialized gRPC messages of `inference.GRPCInferenceService`, and HTTP requests below `/v2`. Out: the same protocol's
answers. `question` is an inference in neither's words, `about` what is told of the server and its models; `service` and
`rest` are the two doors. The answers themselves come from `plane`.
"""
