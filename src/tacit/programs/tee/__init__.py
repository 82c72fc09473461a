"""Which TEE is around a program, whose evidence it believes, and where collateral comes from."""
