"""What does an SGX quote say? Bytes come in, a parsed quote or an evaluated one goes out; no clock and no I/O.

`quote` is the layout (also of simulated quotes), `pck` the platform's certificate, `evaluator` the whole of Intel's
rules in Python. `tacit.evidence.verify_evidence` is the door that uses them.
"""
