"""How does TensorFlow Serving's client speak to us?

In: serialized gRPC messages and HTTP requests of `tensorflow.serving`. Out: the same protocol's answers, with its
statuses and texts. Its command line and text files are read here too; the answers themselves come from `plane`.
"""
