"""`tacit precheck` and `tacit check`: what a cluster has for a coordinator, and how the one on it is."""

import asyncio
import json
from collections.abc import Sequence
from typing import Annotated

import typer

from tacit.cli.files import FormatOption, check_format
from tacit.cli.trust.flags import current_flags
from tacit.cli.trust.through import open_cluster
from tacit.errors import InstallError
from tacit.kube.hardware import NodeHardware, describe_node
from tacit.kube.install import COORDINATOR, look
from tacit.kube.objects import DEPLOYMENT, NODE, labels_of
from tacit.kube.readiness import Part

_VERSION_LABEL = "app.kubernetes.io/version"
_EVERY = 1.0  # seconds between two looks


def precheck(output: FormatOption = "text") -> None:
    """Say which nodes of the cluster have SGX, TDX or SNP for pods, and what is missing.

    Example: tacit precheck
    """
    check_format(output)

    async def ask() -> list[NodeHardware]:
        async with open_cluster() as cluster:
            return [describe_node(node) for node in await cluster.find(NODE)]

    nodes = asyncio.run(ask())
    if output == "json":
        typer.echo(
            json.dumps([{"Node": one.name, "Offers": dict(one.offers), "Missing": list(one.missing)} for one in nodes])
        )
        return
    for line in describe_nodes(nodes):
        typer.echo(line)


def describe_nodes(nodes: Sequence[NodeHardware]) -> list[str]:
    """The lines of `precheck`; the first is as MarbleRun's command line has it."""
    sgx = sum("SGX" in one.offers for one in nodes)
    if sgx:
        lines = [f"Cluster supports SGX on {sgx} node{'s' if sgx > 1 else ''}"]
    else:
        lines = ["Cluster does not support SGX, you may still run it in simulation mode"]
    for one in nodes:
        offered = ", ".join(f"{tee} ({resource})" for tee, resource in one.offers.items())
        lines.append(f"  {one.name}: {offered or 'no TEE that is offered to pods'}")
        lines += [f"    missing: {text}" for text in one.missing]
    tees = sorted({tee for one in nodes for tee in one.offers} - {"SGX"})
    if sgx:
        lines.append("To install: tacit install")
    elif tees:
        key = next(one.offers[tees[0]] for one in nodes if tees[0] in one.offers)
        lines.append(f"To install: tacit install --resource-key {key}")
    else:
        lines.append("To install: tacit install --simulation")
        lines.append("If a node has a TEE, its device plugin may be missing, which is what offers it to pods")
    return lines


def check(
    timeout: Annotated[int, typer.Option("--timeout", min=0, help="Seconds to wait until all is ready.")] = 60,
    output: FormatOption = "text",
) -> None:
    """Say how the coordinator and the injector on the cluster are, and wait until they are ready.

    Example: tacit check
    """
    check_format(output)
    namespace = current_flags().namespace
    parts = asyncio.run(_wait(namespace, timeout, quiet=output == "json"))
    if output == "json":
        shown = [
            {
                "Kind": one.kind,
                "Name": one.name,
                "Ready": one.ready,
                "Wanted": one.wanted,
                "Trouble": one.trouble.text if one.trouble else None,
            }
            for one in parts
        ]
        typer.echo(json.dumps(shown))
    late = next((one for one in parts if not one.is_ready), None)
    if late is not None:
        raise InstallError(describe_late(late, timeout))


async def _wait(namespace: str, seconds: int, *, quiet: bool) -> list[Part]:
    """The parts that are installed, once they are ready or the time is over; each change is shown."""
    said: dict[str, str] = {}
    clock = asyncio.get_running_loop().time
    end = clock() + seconds
    async with open_cluster() as cluster:
        while True:
            found = await look(cluster, namespace)
            parts = [part for part in found if part.is_installed]
            for part in found:
                line = describe_part(part)
                if part.kind == "Deployment" and said.get(part.name) != line and not quiet:
                    typer.echo(line)
                said[part.name] = line
            if all(part.is_ready for part in parts) or clock() >= end:
                return parts
            await asyncio.sleep(_EVERY)


def describe_part(part: Part) -> str:
    """One line about a deployment, as MarbleRun's command line has it; with what is in the way."""
    if not part.is_installed:
        return f"{part.name} is not installed on this cluster"
    trouble = f" ({part.trouble.text})" if part.trouble else ""
    return f"{part.name} pods ready: {part.ready}/{part.wanted}{trouble}"


def describe_late(part: Part, seconds: int) -> str:
    """What was waited for in vain; about a deployment in the words of MarbleRun's command line."""
    why = f": {part.trouble.text}" if part.trouble else ""
    if part.kind != "Deployment":
        return f"{part.kind} {part.name} was not ready after {seconds} seconds{why}"
    return (
        f"deployment {part.name} was not ready after {seconds} seconds ({part.ready}/{part.wanted} pods available){why}"
    )


def coordinator_version() -> str | None:
    """The version of the coordinator on the cluster, as its label says; None where there is none. Raises: ClusterError."""
    namespace = current_flags().namespace

    async def ask() -> str | None:
        async with open_cluster() as cluster:
            found = await cluster.get(DEPLOYMENT, COORDINATOR, namespace=namespace)
            return None if found is None else labels_of(found).get(_VERSION_LABEL)

    return asyncio.run(ask())
