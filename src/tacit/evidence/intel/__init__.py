"""Is this one of Intel's quotes, from a genuine platform, and in which state is it? SGX and TDX alike.

`quote` is the layout, `collateral` and `fields` what Intel signs about platforms, `pck` the platform's certificate.
`verify` has the numbered steps: `library` does most of them by dcap-qvl, `evaluator` (with `levels`) does the same in
Python where the library gives no answer. No clock and no I/O; `tacit.evidence.verify_evidence` is the door.
"""
