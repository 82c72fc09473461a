"""Who gets what, and when?

In come a manifest, secrets from their owners, and marbles with their evidence; out go certificates, keys and files to
those that the manifest allows, and a log of every release. What is held lives sealed in one folder.

`core` decides, on values; `store` is the only module that touches the folder, `api/` the only one that knows a protocol.
"""
