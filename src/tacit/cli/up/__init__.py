"""How does one command run a model of one's own?

In: a model's file or folder. Out: a coordinator and an attested server on the simulated platform, examples that work when
pasted, and nothing left running afterwards.
"""

from tacit.cli.up.command import up

__all__ = ("up",)
