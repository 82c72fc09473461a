"""How is a model run?

In: a model's files and tensors by alias. Out: tensors by alias. One module per engine behind `interface`; an engine's
library is imported when the first model needs it.
"""
