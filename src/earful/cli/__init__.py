"""The command line: one small function per command, in the module that its name says."""

from __future__ import annotations

import _thread
import io
import os
import sys
import threading
import warnings
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from earful.cli.interrupts import kill_as_ctrl_c
from earful.errors import EarfulError

INTERRUPTED = 130  # what a shell reports for Ctrl-C


class Commands(TyperGroup):
    """Commands that say so when Ctrl-C ends them; typer would only return the code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(fail("stopped", code=INTERRUPTED)) from None


app = typer.Typer(
    name="earful",
    cls=Commands,
    help="Live speech models: audio goes in while it is spoken, words come out a moment later.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from earful import __version__

        typer.echo(f"earful {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and stop.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    pass


def main() -> None:
    """Run a command; every error is one line on stderr, with the exit code that tells its kind."""
    sys.unraisablehook, sys.excepthook = _interrupt_later, _without_interrupts
    kill_as_ctrl_c()
    if isinstance(sys.stdout, io.TextIOWrapper):  # whatever the locale: all text can be written, and files are UTF-8
        sys.stdout.reconfigure(encoding=None if sys.stdout.isatty() else "utf-8", errors="replace")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    if not (debug or sys.warnoptions):
        warnings.simplefilter("ignore")  # they are for programmers
    code = run(arguments, debug)
    for timer in _late:
        timer.cancel()
    if _late and code == 0:  # what was interrupted may have ended early and looked whole
        code = fail("stopped", code=INTERRUPTED)
    sys.exit(code)


_late: list[threading.Timer] = []


def _interrupt_later(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C that struck where nothing can be raised, as in a callback of libav, is raised a moment later."""
    if lost.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(lost)
        return
    _late.append(threading.Timer(0.05, _thread.interrupt_main))
    _late[-1].daemon = True
    _late[-1].start()


def run(arguments: list[str], debug: bool = False) -> int:
    """The exit code of one command line: 0 done, 1 failed, 2 misused, 130 stopped by Ctrl-C or `kill`."""
    try:
        if arguments != ["--version"]:
            _register()
        # Calling `app` itself would put typer's own hook for exceptions in place of ours.
        code = typer.main.get_command(app).main(arguments or ["--help"], "earful", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except TyperException as error:
        return fail(error.format_message(), hint="earful --help lists commands and options", code=error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        return fail("stopped", code=INTERRUPTED)
    except BrokenPipeError:  # whoever read us has had enough: say nothing more, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (EarfulError, OSError, ValueError) as error:
        if debug:
            raise
        return fail(_reason(error))
    except ModuleNotFoundError as error:
        if debug:
            raise
        return fail(f"expected {error.name} to be installed, got no such module", hint="earful doctor says how")
    except Exception as error:
        if debug:
            raise
        return fail(f"internal error: {type(error).__name__}: {error}", hint="run again with --debug")


def _without_interrupts(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Where an exception is lost, Cython shows its traceback first; that of Ctrl-C is nobody's concern."""
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


def _register() -> None:
    """Add the commands, once; here because importing them takes seconds, in which Ctrl-C may come."""
    from earful.cli import codec, evaluate, files, listen, models, talk, training, translate

    if not app.registered_commands:
        for module in (files, translate, listen, talk, codec, models, training, evaluate):
            module.register(app)


def _reason(error: Exception) -> str:
    """What an exception says, without the number that the system gives it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def fail(message: str, hint: str | None = None, code: int = 1) -> int:
    """Say in one line what is wrong; returns the exit code."""
    line = " ".join(message.split())
    typer.echo(f"earful: {line}" + (f" ({hint})" if hint else ""), err=True)
    return code
