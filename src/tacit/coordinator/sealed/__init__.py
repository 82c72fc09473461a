"""What lies in the coordinator's folder, as bytes?

`records` is the file: sealed records, each bound to its place and to the one before. `changes` is what a record says.
`keys` is the sealing key at rest. All pure: the folder itself is `store`'s.
"""
