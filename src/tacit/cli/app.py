"""The command line as a whole: its nouns, its exit codes, and how an error looks.

Every failure is one line on standard error that begins with `Error: ` and says what to do; never a traceback.
"""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import distribution
from importlib.metadata import version as installed_version
from typing import Annotated

import typer
from typer.completion import get_completion_script  # type: ignore[attr-defined]  # it is there, and in no list

from tacit.cli import coordinator, inference, manifest, model, platform, trust, up
from tacit.cli.cluster import commands as cluster
from tacit.cli.cluster import look, namespaces
from tacit.cli.files import FormatOption, check_format
from tacit.cli.trust.flags import MARBLERUN_VERBS, arrange, current_flags, take_flags, verb_of
from tacit.errors import TacitError, UsageError

# Options of MarbleRun's command line that have no place here, each with the way that there is.
_HSM = "keys in hardware tokens are not supported; give the files with --cert and --key"
_TRUST = "say once what to expect of a coordinator with `tacit trust`"
FOREIGN_OPTIONS = {
    "--era-config": _TRUST,
    "--accepted-tcb-statuses": _TRUST,
    "--accepted-advisories": _TRUST,
    "--coordinator-cert": _TRUST,
    "--nonce": "every check makes a fresh nonce of its own",
    "--save-sgx-quote": "`tacit --save-sgx-quote FILE status HOST:PORT` writes the evidence",
    "--namespace": "with --kube, and for the verbs that are about a cluster",
    **dict.fromkeys(
        ("--pkcs11-config", "--pkcs11-key-id", "--pkcs11-key-label", "--pkcs11-cert-id", "--pkcs11-cert-label"), _HSM
    ),
}
FOREIGN_OPTIONS |= {
    "--distributed-deployment": "there is one coordinator for one sealed state; it moves with its volume",
    "--version": "the chart of this package installs this version; `--set image.tag=` names another image",
    "--dcap-qcnl-config-file": "the coordinator asks for collateral itself, at --dcap-pccs-url",
    "--dcap-secure-cert": "certificates of a PCCS are always checked",
    "--dcap-qpl": "the coordinator asks for collateral itself, at --dcap-pccs-url",
    "--enterprise-access-token": "there is none",
}
_INTERRUPTED = 130  # as shells say it
_SHOW_TRACEBACK = "TACIT_TRACEBACK"

app = typer.Typer(
    name="tacit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Confidential machine learning: from a trained model to an attested, encrypted prediction.",
    epilog="Start with: tacit up my_model.onnx",
)
app.add_typer(manifest.app, name="manifest")
app.add_typer(coordinator.certificate_app, name="certificate")
app.add_typer(coordinator.secret_app, name="secret")
app.add_typer(coordinator.signed_recovery_app, name="recover-with-signature")
app.add_typer(platform.app, name="platform")
app.add_typer(platform.evidence_app, name="evidence")
app.add_typer(model.app, name="model")
app.add_typer(coordinator.log_app, name="log")
app.add_typer(namespaces.app, name="namespace")
app.callback()(take_flags)
app.command("status")(coordinator.status)
app.command("recover")(coordinator.recover)
app.command("trust")(trust.trust)
app.command("install")(cluster.install_)
app.command("uninstall")(cluster.uninstall)
app.command("precheck")(look.precheck)
app.command("check")(look.check)
app.command("package-info")(platform.package_info)
app.command("snp-measure")(platform.snp_measure)
app.command("predict")(inference.predict)
app.command("bench")(inference.bench)
model.app.command("compare")(inference.compare)
app.command("up")(up.up)


@app.command("version")
def version(output: FormatOption = "text") -> None:
    """Print the version of this command line, and with `--kube` that of the coordinator on the cluster.

    Example: tacit version
    """
    check_format(output)
    found, commit = installed_version("tacit"), _commit()
    coordinator = look.coordinator_version() if current_flags().kube else None
    if output == "json":
        typer.echo(json.dumps({"Version": found, "Commit": commit, "Coordinator": coordinator}))
        return
    typer.echo(f"CLI Version: v{found}")
    if commit is not None:
        typer.echo(f"Commit: {commit}")
    if coordinator is None:  # MarbleRun's looks for one in Kubernetes each time
        typer.echo("Unable to find MarbleRun Coordinator")
    else:
        typer.echo(f"Coordinator Version: {coordinator}")


def _commit() -> str | None:
    """The commit that was installed, where it came from a repository; pip writes that down."""
    text = distribution("tacit").read_text("direct_url.json")
    found = json.loads(text).get("vcs_info", {}).get("commit_id") if text else None
    return None if found is None else str(found)


@app.command("completion")
def completion(shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")]) -> None:
    """Print what makes a shell complete the words of `tacit`.

    Example: tacit completion bash
    """
    if shell not in ("bash", "zsh", "fish"):
        raise UsageError(f"there is no completion for {shell!r}; expected bash, zsh or fish")
    typer.echo(get_completion_script(prog_name="tacit", complete_var="_TACIT_COMPLETE", shell=shell))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0, 1 for a failure, 2 for wrong usage (1 where the verb is MarbleRun's)."""
    typed = sys.argv[1:] if argv is None else argv
    verb = verb_of(typed)
    wrong_usage = 1 if verb in MARBLERUN_VERBS else 2
    try:
        done = typer.main.get_command(app).main(args=arrange(typed), prog_name="tacit", standalone_mode=False)
        sys.stdout.flush()
    except SystemExit as left:  # shell completion leaves by itself
        done = left.code
    except TacitError as error:
        return _fail(str(error), wrong_usage if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        done = _INTERRUPTED
    except Exception as error:  # the last door: a person never gets a traceback
        return _explain_usage(error, wrong_usage) if hasattr(error, "format_message") else _explain(error)
    if done == _INTERRUPTED:
        with contextlib.suppress(OSError):  # the terminal may be closed: that is how it ends, too
            typer.echo("Interrupted.", err=True)
    return done if isinstance(done, int) else 0


def _fail(message: str, code: int) -> int:
    # Some words in it are another machine's: they write text here, and do not command the terminal.
    text = "".join(sign if sign.isprintable() or sign in "\n\t" else "\N{REPLACEMENT CHARACTER}" for sign in message)
    typer.echo(f"Error: {text}", err=True)
    return code


def _explain_usage(error: Exception, code: int) -> int:
    """One line for words that do not make a command; help where there were none. The library has no public base class."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(str(error))
        return 0
    command = "tacit" if context is None else context.command_path
    option = str(getattr(error, "option_name", "")).partition("=")[0]
    option = {"-n": "--namespace"}.get(option, option)
    if option in FOREIGN_OPTIONS:
        return _fail(f"{option} is an option of MarbleRun's and not of {command}: {FOREIGN_OPTIONS[option]}", code)
    message = " ".join(str(error.format_message()).split()).rstrip(".")  # type: ignore[attr-defined]  # asked for above
    return _fail(f"{message}. See: {command} --help", code)


def _explain(error: Exception) -> int:
    """One line for what nobody foresaw, and the way to see more of it. Raises: the error itself, if that was asked for."""
    if isinstance(error, BrokenPipeError) or getattr(error, "errno", None) == errno.EPIPE:
        # The reader of our output left, as `head` does; there is nobody to tell, and nothing may be flushed at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if os.environ.get(_SHOW_TRACEBACK) == "1":
        raise error
    if isinstance(error, OSError):
        return _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 1)
    if isinstance(error, MemoryError):
        return _fail("out of memory; give this machine more, or a smaller input", 1)
    kind = type(error).__name__
    return _fail(f"a fault of tacit itself ({kind}); please report what {_SHOW_TRACEBACK}=1 shows for this command", 1)
