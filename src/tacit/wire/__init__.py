"""What crosses a process border?

In and out: bytes. Inside: the REST structures of MarbleRun's API, tensors, and the generated protobuf messages of `pb`.
"""
