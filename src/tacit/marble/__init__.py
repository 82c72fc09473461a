"""How does a process become trusted?

In: what the environment says of coordinator, type and names, and an issuer of evidence. Out: a command with the files,
environment and arguments that the manifest gives it, ready to be started in this process's place.

`activate` decides (pure), `recognise` says which coordinator may be obeyed, `place` puts files where they may lie,
`write` has them whole there, `premain` talks to the coordinator and joins them.
"""

from tacit.marble.activate import Activation, Settings, parse_response, parse_settings

__all__ = ["Activation", "Settings", "parse_response", "parse_settings"]
