"""How is a process put together?

One module per program, and `memory`, with which each begins. A program reads the environment once, builds the objects
and starts; nothing below them knows where its parts came from.
"""
