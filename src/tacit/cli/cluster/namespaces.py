"""`tacit namespace`: where marbles may run. Labels on pods decide that; a simulated TEE needs its platform there too."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any

import typer

from tacit.cli.files import FormatOption, check_format
from tacit.cli.trust.flags import check_namespace, current_flags
from tacit.cli.trust.through import open_cluster
from tacit.kube.objects import Cluster
from tacit.kube.places import add_place, find_places, remove_place

app = typer.Typer(no_args_is_help=True, help="Namespaces of a cluster in which marbles run.")

NameArgument = Annotated[str, typer.Argument(metavar="NAMESPACE", help="A namespace of the cluster.")]


def _ask(work: Callable[[Cluster], Awaitable[Any]]) -> Any:
    async def opened() -> Any:
        async with open_cluster() as cluster:
            return await work(cluster)

    return asyncio.run(opened())


@app.command()
def add(names: Annotated[list[str], typer.Argument(metavar="NAMESPACE...", help="Namespaces of the cluster.")]) -> None:
    """Prepare a namespace for marbles: in simulation, give it the platform. Which pods are marbles, their labels say.

    Example: tacit namespace add tensorflow
    """
    owner = current_flags().namespace
    for name in [check_namespace(name) for name in names]:
        for line in _ask(partial(add_place, name=name, owner=owner)):
            typer.echo(line)


@app.command("list")
def list_(output: FormatOption = "text") -> None:
    """List the namespaces that have marbles, or what marbles need.

    Example: tacit namespace list
    """
    check_format(output)
    owner = current_flags().namespace
    places = _ask(partial(find_places, owner=owner))
    if output == "json":
        typer.echo(
            json.dumps(
                [{"Namespace": one.name, "Marbles": one.marbles, "Platform": one.has_platform} for one in places]
            )
        )
        return
    for one in places:
        platform = ", the simulated platform" if one.has_platform else ""
        typer.echo(f"{one.name}: {one.marbles} marble{'' if one.marbles == 1 else 's'}{platform}")
    if not places:
        typer.echo("No namespace has marbles")


@app.command()
def remove(name: NameArgument) -> None:
    """Take back what `add` gave to a namespace. Its pods run on.

    Example: tacit namespace remove tensorflow
    """
    owner = current_flags().namespace
    for line in _ask(partial(remove_place, name=check_namespace(name), owner=owner)):
        typer.echo(line)
