"""How are the messages that come and go most often read and written without a message object in between?

In: outputs of a model, or the bytes of a request like one before. Out: the bytes of its answer, or what the request means.
"""
