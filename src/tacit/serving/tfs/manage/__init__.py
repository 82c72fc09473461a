"""How is the server looked after?

In: another configuration, by a call or a file; questions about health; what happened, to be counted.
Out: models that come and go, answers of grpc.health.v1, and metrics under TensorFlow Serving's names.
"""
