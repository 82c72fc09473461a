"""The verbs of `tacit model`, as typed."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from tacit.cli.files import FormatOption as OutputFormatOption
from tacit.cli.files import check_format, printable
from tacit.cli.model.progress import progress_bar
from tacit.cli.trust.through import open_cluster
from tacit.errors import UsageError

CAPSULE, CTR = "capsule", "ctr"
CTR_WARNING = "it hides the model from readers, but whoever can write the file can change the model unseen"

app = typer.Typer(
    no_args_is_help=True,
    help="Model files: get one, make one, convert it, encrypt it.",
)

KeyOption = Annotated[Path, typer.Option("-k", "--key", help="Key file: 32 bytes in base64. Made if it is missing.")]
ExistingKeyOption = Annotated[Path, typer.Option("-k", "--key", help="Key file: 32 bytes, raw or in base64.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
FormatOption = Annotated[
    str, typer.Option("--format", help="capsule, or ctr (the demo's format, without authentication).")
]


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="A published model: resnet50-v15-fp32.")],
    *,
    folder: Annotated[Path, typer.Option("--dir", help="Where models lie.")] = Path("models"),
    url: Annotated[str | None, typer.Option("--url", help="A mirror; it must give the same bytes.")] = None,
) -> None:
    """Download a published model; its SHA-256 is recorded the first time and checked ever after.

    Example: tacit model download resnet50-v15-fp32
    """
    from tacit.cli.model.download import PUBLISHED, fetch_published
    from tacit.client.trust import default_trust_folder

    model = PUBLISHED.get(name)
    if model is None:
        raise UsageError(f"{name!r} is no published model that is known here; expected {' or '.join(PUBLISHED)}")
    with progress_bar(f"Downloading {name}") as progress:
        done = fetch_published(
            model, folder / name, url=url or model.url, config=default_trust_folder(os.environ), progress=progress
        )
    typer.echo(f"Saved model to: {done.path}" if done.fetched else f"Already downloaded: {done.path}")
    typer.echo(f"SHA-256 {done.sha256} ({'recorded, first download' if done.first else 'as recorded'})")


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="What to make: resnet50.")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where to write the frozen graph.")] = Path(
        "models/resnet50-v15-fp32/resnet50-v15-fp32.pb"
    ),
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same file.")] = 0,
    force: ForceOption = False,
) -> None:
    """Make a frozen graph with seeded weights: it costs what a trained one costs, and answers nonsense.

    Example: tacit model make resnet50
    """
    from tacit.cli.model.convert import make_resnet50

    if name != "resnet50":
        raise UsageError(f"{name!r} cannot be made; expected resnet50")
    with progress_bar("Making resnet50") as progress:
        size = make_resnet50(out, seed=seed, force=force, progress=progress)
    typer.echo(f"Saved model to: {out}")
    typer.echo(f"ResNet-50 v1.5, {size} bytes, seed {seed}; its weights are made, not trained")


@app.command()
def convert(
    *,
    import_path: Annotated[Path, typer.Option("--import_path", "--import-path", help="The frozen graph (.pb).")],
    export_dir: Annotated[Path, typer.Option("--export_dir", "--export-dir", help="The model's folder.")],
    inputs: Annotated[str, typer.Option("--inputs", help="Names of input nodes, with commas between them.")],
    outputs: Annotated[str, typer.Option("--outputs", help="Names of output nodes, with commas between them.")],
    model_version: Annotated[int, typer.Option("--model_version", "--model-version", min=1, help="Folder in it.")] = 1,
    dtypes: Annotated[str, typer.Option("--dtypes", help="Types of the inputs, where the graph does not say.")] = "",
    force: ForceOption = False,
) -> None:
    """Make a SavedModel of a frozen graph, for TensorFlow Serving and for Tacit.

    Example: tacit model convert --import_path resnet50.pb --export_dir models/resnet50 --model_version 1
    --inputs input --outputs predict
    """
    from tacit.cli.model.convert import convert as convert_graph
    from tacit.cli.model.convert import split_list

    folder = export_dir / str(model_version)
    typer.echo(f"Exporting trained model to {folder}")
    convert_graph(
        import_path, folder, inputs=split_list(inputs), outputs=split_list(outputs), dtypes=dtypes, force=force
    )
    typer.echo("Done!")


@app.command()
def encrypt(
    *,
    key: KeyOption,
    model: Annotated[
        Path, typer.Option("-m", "--model", help="The model: a folder, or a file with what belongs to it.")
    ],
    format_: FormatOption = CAPSULE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: encrypted/NAME.capsule.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name in the capsule. Default: from the path.")] = None,
    model_version: Annotated[
        int | None,
        typer.Option("--model-version", min=1, help="Version in the capsule. Default: from the path, else 1."),
    ] = None,
    force: ForceOption = False,
    unauthenticated: Annotated[
        bool, typer.Option("--unauthenticated", help="Needed for ctr: accept that changes go unseen.")
    ] = False,
) -> None:
    """Encrypt a model for a key, so that only what the manifest names can open it.

    Example: tacit model encrypt -k model_key -m models/resnet50-v15-fp32/1
    """
    from tacit.cli.model.encrypt import MODEL_SUFFIXES, digest_of, encrypt_capsule, encrypt_legacy

    _check_format(format_)
    if model.is_file() and model.suffix not in MODEL_SUFFIXES:
        known = ", ".join(MODEL_SUFFIXES)
        typer.echo(f"Warning: {model} has not the name of a model that tacit-serve reads ({known}).", err=True)
    if format_ == CTR:
        if not unauthenticated:
            raise UsageError(
                f"the ctr format has no authentication: {CTR_WARNING}. Add --unauthenticated to write it anyway"
            )
        if name is not None or model_version is not None:
            raise UsageError("the ctr format holds neither a name nor a version; leave --name and --model-version out")
        with progress_bar(f"Encrypting {model.name}") as progress:
            done = encrypt_legacy(model, key, out=out, force=force, progress=progress)
        typer.echo(f"Warning: {done.path} is not authenticated: {CTR_WARNING}.", err=True)
    else:
        with progress_bar(f"Encrypting {model.name}") as progress:
            done = encrypt_capsule(
                model, key, out=out, name=name, version=model_version, force=force, progress=progress
            )
    _say_key(key, made=done.key_was_made)
    typer.echo(f"Saved encrypted file to: {done.path}")
    if done.info is None:
        typer.echo(f"ID: {digest_of(done.path).hex()}")
    else:
        typer.echo(f"ID: {done.info.id.hex()}")
        typer.echo(f"Name: {done.info.name}, version {done.info.version}, {len(done.info.files)} file(s)")
        rule = {
            done.info.name: {
                "Format": "capsule",
                "ID": done.info.id.hex(),
                "MinVersion": done.info.version,
                "Key": "model_key",
            }
        }
        typer.echo(f'For the manifest: "Models": {json.dumps(rule)}')


@app.command()
def decrypt(
    *,
    key: ExistingKeyOption,
    model: Annotated[Path, typer.Option("-m", "--model", help="The capsule, or the file in the ctr format.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder (capsule) or file (ctr), on a tmpfs.")],
    format_: FormatOption = CAPSULE,
    plaintext_on_disk: Annotated[
        bool,
        typer.Option("--plaintext-on-disk", help="Write it although the place is a disk, where it can be recovered."),
    ] = False,
) -> None:
    """Open an encrypted model again, into memory that looks like a folder (tmpfs).

    Where the machine swaps, such memory can reach a disk all the same.

    Example: tacit model decrypt -k model_key -m encrypted/resnet50.capsule -o /dev/shm/resnet50
    """
    from tacit.cli.model.encrypt import decrypt_capsule, decrypt_legacy

    _check_format(format_)
    if format_ == CTR:
        paths = decrypt_legacy(model, key, out, on_disk=plaintext_on_disk)
        typer.echo(
            "Warning: the ctr format is not authenticated: a wrong key or a changed file looks like any other.",
            err=True,
        )
    else:
        with progress_bar(f"Decrypting {model.name}") as progress:
            paths = decrypt_capsule(model, key, out, on_disk=plaintext_on_disk, progress=progress)
    if plaintext_on_disk:
        typer.echo(f"Warning: the plaintext model lies in {out}; deleting it does not remove it from a disk.", err=True)
    for path in paths:
        typer.echo(f"Saved decrypted file to: {path}")


@app.command()
def rekey(
    *,
    key: Annotated[Path, typer.Option("-k", "--key", help="The key that the capsule has.")],
    new_key: Annotated[Path, typer.Option("--new-key", help="The key that it is to have. Made if it is missing.")],
    model: Annotated[Path, typer.Option("-m", "--model", help="The capsule.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Another file. Default: in its place.")] = None,
    force: ForceOption = False,
) -> None:
    """Give a capsule another key; its plaintext touches no disk.

    Example: tacit model rekey -k model_key --new-key next_key -m encrypted/resnet50.capsule
    """
    from tacit.cli.model.encrypt import rekey as rekey_model

    with progress_bar(f"Rekeying {model.name}") as progress:
        done = rekey_model(model, key, new_key, out=out, force=force, progress=progress)
    _say_key(new_key, made=done.key_was_made)
    typer.echo(f"Saved encrypted file to: {done.path}")
    if done.info is not None:
        typer.echo(f"ID: {done.info.id.hex()}")


@app.command()
def inspect(
    model: Annotated[
        Path, typer.Argument(help="A capsule, a file in the ctr format, or a plain model (folder or file).")
    ],
    *,
    key: Annotated[
        Path | None, typer.Option("-k", "--key", help="Key of a capsule, to see its name and files.")
    ] = None,
    output: OutputFormatOption = "text",
) -> None:
    """Print what a model file says of itself, and the ID that a manifest's Models name it by.

    Example: tacit model inspect encrypted/resnet50.capsule
    """
    from tacit.cli.model.inspect import describe_capsule, describe_ctr, describe_model

    check_format(output)
    is_capsule = model.suffix == ".capsule"
    if key is not None and not is_capsule:
        raise UsageError(f"--key is for capsules, whose names end in .capsule; {model} does not")
    describe = describe_ctr if model.suffix == ".encrypted" else describe_model
    found = describe_capsule(model, key) if is_capsule else describe(model)
    if output == "json":
        typer.echo(json.dumps({"Path": str(model), **found.fields}))
        return
    for line in found.lines:
        typer.echo(printable(line))


@app.command()
def push(
    model: Annotated[Path, typer.Argument(help="The encrypted model: a file.")],
    *,
    kube: Annotated[bool, typer.Option("--kube", help="Through the cluster of your kubeconfig; the only way.")] = True,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Of the servers. Default: the kubeconfig's.")
    ] = None,
    pod: Annotated[str, typer.Option("--pod", help="The pod that has their volume.")] = "tf-server",
    folder: Annotated[str, typer.Option("--to", help="Where the pod has it.")] = "/encrypted",
    plaintext: Annotated[
        bool, typer.Option("--plaintext", help="Push it although its name is not that of an encrypted model.")
    ] = False,
) -> None:
    """Bring an encrypted model to the servers of a cluster: resumed where it broke off, and verified there.

    Example: tacit model push encrypted/resnet50.capsule --kube -n tensorflow
    """
    import asyncio
    from pathlib import PurePosixPath

    from tacit.cli.model.push import check_pushed, find_storage
    from tacit.cli.model.push import push as push_file

    del kube  # there is no other way yet
    if model.suffix not in (".capsule", ".encrypted") and not plaintext:
        raise UsageError(
            f"{model} has not the name of an encrypted model (.capsule, .encrypted), and whoever runs the cluster would read "
            "it; encrypt it with `tacit model encrypt`, or say --plaintext"
        )
    check_pushed(model, plaintext=plaintext)

    async def work() -> None:
        async with open_cluster() as cluster:
            place = namespace or cluster.namespace
            through = await find_storage(cluster, pod, place)
            with progress_bar(f"Pushing {model.name}") as progress:
                done = await push_file(cluster, model, through, PurePosixPath(folder), progress=progress)
            was = f"; {done.resumed} bytes were there already" if done.resumed else ""
            typer.echo(f"Pushed {model} to {place}/{pod}:{done.path}")
            typer.echo(f"SHA-256 {done.sha256}, verified in the pod; {done.size} bytes{was}")

    asyncio.run(work())


def _check_format(format_: str) -> None:
    if format_ not in (CAPSULE, CTR):
        raise UsageError(f"--format {format_!r} is unknown; expected capsule or ctr")


def _say_key(path: Path, *, made: bool) -> None:
    if made:
        typer.echo(f"Made a new key: {path} (keep it secret; whoever has it opens the model)", err=True)
    else:
        typer.echo(f"Used the key in {path}", err=True)
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            typer.echo(f"Warning: not only its owner may use {path} (mode {mode:o}); chmod 600 it.", err=True)
