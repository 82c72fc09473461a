"""PEM as the demo's manifest writes it: the whole base64 on one line, and newlines escaped."""


def one_line(pem: bytes) -> str:
    """PEM text for single quotes in protobuf's text format."""
    head, *body, foot = pem.decode().strip().split("\n")
    return "\\n".join([head, "".join(body), foot, ""])
