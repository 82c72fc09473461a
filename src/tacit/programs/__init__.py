"""How is a process put together?

One module per program. Each reads the environment once, builds the objects and starts; nothing below them knows where
its parts came from.
"""
