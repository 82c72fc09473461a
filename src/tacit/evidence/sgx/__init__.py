"""What does an SGX report say? 384 bytes come in, its fields go out: of an enclave, or of Intel's quoting enclave.

Quotes that carry one, and how they are verified, are in `tacit.evidence.intel`.
"""
