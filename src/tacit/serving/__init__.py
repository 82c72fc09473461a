"""How is a prediction made?

In: a folder or capsule with a model, and requests that a protocol's sub-room has decoded.
Out: tensors, or a `RequestError` with a canonical status.

The request's way: `tfs/` (bytes to tensors) → `plane` (checks, in order) → `batch` (one inference in flight per model)
→ `engines/` → back. The model's way: `sources` (what lies in the storage) → `repository` (versions and their states)
→ `engines/`. Nothing is imported here: a program takes what it needs, and an engine is loaded where it is used.
"""
