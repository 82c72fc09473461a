"""`tacit install` and `tacit uninstall`: a coordinator and an injector, brought to a cluster and taken away."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.cluster.screen import Screen
from tacit.cli.platform import whole_platform
from tacit.cli.trust.flags import current_flags
from tacit.cli.trust.through import open_cluster, service_host
from tacit.client.address import COORDINATOR_PORT
from tacit.errors import InputError, UsageError
from tacit.kube.hardware import SNP_IDS, TDX_KEYS, parse_resource_key
from tacit.kube.helm import CHART, Helm, chart_folder
from tacit.kube.install import Wish, install
from tacit.kube.remove import remove

# Which TEE a resource stands for; what is not here is SGX.
_KINDS = {TDX_KEYS: "tdx", SNP_IDS: "snp"}


def install_(
    domain: Annotated[
        list[str] | None,
        typer.Option("--domain", help="Further names and addresses of the coordinator; commas, or several times."),
    ] = None,
    simulation: Annotated[
        bool, typer.Option("--simulation", help="A SIMULATED TEE: all is attested, nothing is protected.")
    ] = False,
    unattested: Annotated[
        bool, typer.Option("--unattested", help="Ask marbles for no evidence, as MarbleRun does when it simulates.")
    ] = False,
    platform: Annotated[
        Path | None, typer.Option("--platform", help="Folder of the simulated platform that the cluster is to have.")
    ] = None,
    resource_key: Annotated[
        str,
        typer.Option("--resource-key", metavar="NAME[=AMOUNT]", help="Resource of the TEE (default: as nodes offer)."),
    ] = "",
    pccs: Annotated[
        str, typer.Option("--dcap-pccs-url", help="Where the coordinator gets the collateral of SGX and TDX.")
    ] = "",
    kds: Annotated[
        str, typer.Option("--kds-url", help="Where it gets the collateral of SNP (default: AMD's own).")
    ] = "",
    no_injection: Annotated[
        bool, typer.Option("--disable-auto-injection", help="Without the webhook; pods say themselves what they need.")
    ] = False,
    client_port: Annotated[
        int, typer.Option("--client-server-port", min=1, max=65535, help="Of the client API.")
    ] = 4433,
    mesh_port: Annotated[int, typer.Option("--mesh-server-port", min=1, max=65535, help="Of the mesh API.")] = 2001,
    chart: Annotated[
        Path | None,
        typer.Option("--chart", "--marblerun-chart-path", help="Another chart than the one of this package."),
    ] = None,
    values: Annotated[
        list[Path] | None, typer.Option("--values", "-f", help="File with values of the chart; several times.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A value of the chart; several times.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="See everything come up.")] = True,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for that.")] = 300,
) -> None:
    """Install a coordinator and an injector on the Kubernetes cluster of your kubeconfig, and see them come up.

    It is the chart and what has to be there before. Run again, it goes on from where it was, or changes what is installed.

    Example: tacit install --domain coordinator.example.org --simulation
    """
    if simulation and unattested:
        raise UsageError("--simulation gives evidence, and --unattested asks for none; say one of them")
    if resource_key:
        parse_resource_key(resource_key)
    namespace = current_flags().namespace
    wish = Wish(
        namespace=namespace,
        domains=tuple(part.strip() for text in domain or () for part in text.split(",") if part.strip()),
        simulation=simulation,
        unattested=unattested,
        platform=whole_platform(platform) if simulation else None,
        resource_key=resource_key,
        injection=not no_injection,
        client_port=client_port,
        mesh_port=mesh_port,
        pccs=pccs,
        kds=kds,
        more=(*_words("--values", [str(_file(path)) for path in values or ()]), *_words("--set", settings or [])),
        timeout=timeout,
        wait=wait,
    )
    _run_install(wish, chart_folder(CHART) if chart is None else _chart(chart))
    typer.echo(_next_steps(wish))


def _run_install(wish: Wish, chart: Path) -> None:
    async def work(screen: Screen) -> None:
        helm = await Helm.find(wish.namespace)
        async with open_cluster() as cluster:
            await install(cluster, helm, chart, wish, screen)

    run(work, "The install was interrupted; run the same command again, and it goes on from there.")


def run(work: Callable[[Screen], Awaitable[None]], interrupted: str) -> None:
    """Do work that shows what it does."""

    async def shown() -> None:
        with Screen() as screen:
            await work(screen)

    try:
        asyncio.run(shown())
    except KeyboardInterrupt:
        typer.echo(interrupted, err=True)
        raise


def uninstall() -> None:
    """Take the coordinator and the injector away, with the sealed state, and say what is left.

    Example: tacit uninstall
    """
    namespace = current_flags().namespace

    async def work(screen: Screen) -> None:
        helm = await Helm.find(namespace)
        async with open_cluster() as cluster:
            await remove(cluster, helm, namespace, screen)

    run(work, "The uninstall was interrupted; run it again.")


def _file(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"there is no file {path}; --values names a file with values of the chart")
    return path


def _chart(path: Path) -> Path:
    if not (path / "Chart.yaml").is_file() and not path.is_file():
        raise InputError(f"there is no chart at {path}; --chart names a folder with a Chart.yaml, or an archive of one")
    return path


def _words(option: str, values: list[str]) -> list[str]:
    return [word for value in values for word in (option, value)]


def _next_steps(wish: Wish) -> str:
    ours = f"tacit --kube{'' if wish.namespace == 'marblerun' else f' --namespace {wish.namespace}'}"
    package = "--package tacit-coordinator.package.json"
    kind = "simulated" if wish.simulation else _KINDS.get(wish.resource_key.partition("=")[0], "sgx")
    tee = "unattested" if wish.unattested else f"{kind} {package}"
    port = wish.client_port
    host = "" if port == COORDINATOR_PORT else f" {service_host(wish.namespace, port)}"
    lines = [
        "" if wish.wait else "Not waited for: `tacit check` says when it is ready.",
        "Next:",
        f"  {ours} trust{host} --tee {tee}",
        *([] if wish.unattested else ["  (the package is what your build of the images says of the coordinator)"]),
        f"  {ours} manifest set manifest.json{host}",
        "then label the pods of your servers `marblerun/marbletype: TYPE`, as the manifest names them.",
        f"Without --kube: kubectl -n {wish.namespace} port-forward svc/coordinator-client-api {port}, and "
        f"localhost:{port}",
    ]
    if wish.simulation:
        lines.append("SIMULATED: pods of other namespaces get the platform by `tacit namespace add NAMESPACE`.")
    return "\n".join(line for line in lines if line)
