"""What would a TEE say here? A platform of our own, SIMULATED by name, that makes evidence of real layouts: SGX, TDX, SNP.

`authority` is the maker (root, certificates, lists, collateral), `platform` one machine's keys and their file, `quote`
what its quoting enclave signs, `tdx` its trust domains, `snp` its chip, `measure` what MRENCLAVE stands for. Keys,
files' bytes and `now` come in; bytes go out. `tacit.evidence.issue` holds the folder and the clock. Nothing here
verifies: the one verifier does, with this platform's roots as its anchors. A simulated TEE protects nothing from whoever
has the folder.
"""
