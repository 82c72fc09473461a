"""What does a marble's pod need before it starts?

In: an admission review. Out: a patch, or a refusal. `patch` is the rule, `review` the frame around it, `webhook` the
door. `certificate` says what the webhook's own certificate is to be, and `upkeep` keeps it so, for all replicas.
"""
