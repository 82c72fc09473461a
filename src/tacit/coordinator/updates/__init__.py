"""How does what is held change?

`ledger` holds it, and has the one way to change it. `steps` takes users' proposals of another manifest and their
agreements; `effects` says, purely, what is held after an update. `recovery` takes shares until a sealed state opens.
`audit` gives out the log of all of it, and decides which refusals get into it.
What may change in a manifest at all is `manifest.update`'s.
"""
