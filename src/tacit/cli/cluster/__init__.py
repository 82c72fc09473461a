"""What does the owner do with a Kubernetes cluster?

In: words about an installation. Out: calls to `kube/`, and lines for a person. `through` is the way to a coordinator for
the other nouns.
"""
