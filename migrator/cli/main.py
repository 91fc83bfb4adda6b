"""`migrator`: the command line's root. Each verb lives in `verbs`; this file only names them."""

from pathlib import Path

import click
from click.shell_completion import get_completion_class

import migrator
from migrator.cli import exits
from migrator.cli.simulate import simulate
from migrator.cli.verbs import host, journal, migrate, scenario, ve
from migrator.wiring import Places

EPILOG = exits.HELP


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(migrator.__version__, prog_name="migrator")
@click.option("--inventory", type=click.Path(path_type=Path), help="The fleet's hosts.  [env MIGRATOR_INVENTORY]")
@click.option("--journal", "journal_at", help="SQLite file or database URL.  [env MIGRATOR_JOURNAL]")
@click.option(
    "--log",
    metavar="FILE|-",
    default="",
    envvar="MIGRATOR_LOG",
    help="Append one line of JSON per event to FILE, or to standard error.  [env MIGRATOR_LOG]",
)
@click.pass_context
def main(context: click.Context, inventory: Path | None, journal_at: str | None, log: str) -> None:
    """Live migration of virtual environments between hosts.

    \b
    First steps:
      migrator host add alpha 192.0.2.1       bring the agent to a host
      migrator ve list                        what runs where
      migrator plan web beta                  what moving it would take
      migrator migrate web beta               move it
      migrator status                         what is unfinished, and what to do next
    """
    default = Places.default()
    context.obj = Places(inventory or default.inventory, journal_at or default.journal, log)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(migrator completion bash)"."""
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "migrator", "_MIGRATOR_COMPLETE").source())


for verb in (
    host.host,
    ve.ve,
    migrate.plan,
    migrate.migrate,
    journal.status,
    journal.show,
    journal.history,
    journal.abort,
    journal.resume,
    journal.recover,
    journal.fence,
    simulate,
    scenario.scenario,
):
    main.add_command(verb)
