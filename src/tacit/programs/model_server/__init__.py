"""What does `tacit-serve` put together?

`models` is what it serves and how requests wait for it, `doors` is which handlers its ports have and what stands before
them, `private` the folder in memory in which activation left its keys. `server` builds the process from
them, and `programs/serve.py` starts it, after the process for the first model (`isolation`).
"""
