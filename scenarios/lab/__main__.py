"""The lab from the command line: up, down, status, exec, crash, boot, link."""

from pathlib import Path

import click

from scenarios.lab.fleet import Lab, Topology


@click.group()
def main() -> None:
    """A fleet of real hosts on this machine."""


@main.command()
@click.option("--topology", type=click.Path(path_type=Path, exists=True), help="TOML file; default: alpha and beta.")
@click.option("--name", default=None, help="Name of the lab.")
def up(topology: Path | None, name: str | None) -> None:
    """Bring the lab up."""
    lab = Lab.up(Topology.from_toml(topology, name) if topology else Topology(name or "lab"))
    for host in lab.hosts:
        click.echo(f"{host.name}: {host.address} {host.address6}")
    click.echo(f"inventory: {lab.inventory}")


@main.command()
@click.option("--name", default="lab")
def down(name: str) -> None:
    """Take the lab away."""
    try:
        Lab.load(name).down()
    except FileNotFoundError:
        click.echo(f"no lab named {name}")


@main.command("exec", context_settings={"ignore_unknown_options": True})
@click.option("--name", default="lab")
@click.argument("host")
@click.argument("words", nargs=-1, required=True)
def exec_(name: str, host: str, words: tuple[str, ...]) -> None:
    """Run a program inside a host."""
    done = Lab.load(name).host(host).run(*words, check=False)
    click.echo(done.stdout, nl=False)
    click.echo(done.stderr, nl=False, err=True)
    raise SystemExit(done.returncode)


@main.command()
@click.option("--name", default="lab")
@click.argument("host")
def crash(name: str, host: str) -> None:
    """End every process of a host at once."""
    lab = Lab.load(name)
    lab.crash(lab.host(host))


@main.command()
@click.option("--name", default="lab")
@click.argument("host")
def boot(name: str, host: str) -> None:
    """Start a crashed host from its disk."""
    lab = Lab.load(name)
    lab.boot(lab.host(host))


@main.command()
@click.option("--name", default="lab")
@click.option("--rate", default=None, help="Like 1gbit.")
@click.option("--up/--down", "is_up", default=None)
@click.argument("host")
def link(name: str, rate: str | None, is_up: bool | None, host: str) -> None:
    """Shape or cut the line of a host."""
    lab = Lab.load(name)
    lab.set_link(lab.host(host), rate=rate, up=is_up)


if __name__ == "__main__":
    main()
