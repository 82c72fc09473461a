"""How does a version get into memory, and into whose?

In: a version in the storage and how it is to be run. Out: a model that is loaded and warm. `opening` has the steps,
`warmup` the runs before it answers. A native engine may die of a hostile model: so it can be tried in a process of its
own first, or stay in one. `isolation` chooses, `process` is such a process as this one sees it, `supervised` starts it
again when it dies, `worker` is what runs in it, and `messages` and `memory` are how the two speak.
"""
