"""How does it run on a cluster?

In: what a person wants installed, and what the cluster says. Out: objects on the cluster, and lines about them. `injector`
prepares pods; `hardware` says what a node has and what a pod asks for it; `install` and `remove` bring the chart to a
cluster and take it away, by `helm`; `readiness` reads what became of it; `forward` reaches a service of it. `cluster` is
the one door to Kubernetes, and `helm` the one that starts a program.
"""
