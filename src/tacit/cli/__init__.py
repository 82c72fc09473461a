"""What does the owner type?

In: words on a command line. Out: calls to `client/`, `vault/` and `graph/`, and lines for a person.
One module per noun; errors go up as they are and become one line in `app`.
"""
