"""The command line as a whole: its nouns, its exit codes, and how an error looks."""

import sys
from collections.abc import Sequence
from importlib.metadata import version as installed_version

import typer

from tacit.cli import bench, coordinator, manifest, model, platform, predict, trust, up
from tacit.errors import TacitError, UsageError

# These verbs are MarbleRun's: scripts that call them expect 1 for wrong usage too.
MARBLERUN_VERBS = frozenset({"status", "manifest", "certificate", "secret", "recover", "package-info", "version"})

app = typer.Typer(
    name="tacit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Confidential machine learning: from a trained model to an attested, encrypted prediction.",
    epilog="Start with: tacit up my_model.onnx",
)
app.add_typer(manifest.app, name="manifest")
app.add_typer(coordinator.certificate_app, name="certificate")
app.add_typer(coordinator.secret_app, name="secret")
app.add_typer(platform.app, name="platform")
app.add_typer(model.app, name="model")
app.command("status")(coordinator.status)
app.command("trust")(trust.trust)
app.command("package-info")(platform.package_info)
app.command("predict")(predict.predict)
app.command("bench")(bench.bench)
app.command("up")(up.up)


@app.command("version")
def version() -> None:
    """Print the version of this command line."""
    typer.echo(f"tacit {installed_version('tacit')}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0, 1 for a failure, 2 for wrong usage (1 where the verb is MarbleRun's)."""
    words = list(sys.argv[1:] if argv is None else argv)
    command = typer.main.get_command(app)
    wrong_usage = 1 if words and words[0] in MARBLERUN_VERBS else 2
    try:
        command.main(args=words, prog_name="tacit")
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1
        return wrong_usage if code == 2 else code
    except UsageError as error:
        typer.echo(f"Error: {error}", err=True)
        return wrong_usage
    except TacitError as error:
        typer.echo(f"Error: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output left, as `head` does; there is nobody to tell.
        sys.stderr.close()
        return 1
    return 0
