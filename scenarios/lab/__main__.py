"""The lab from the command line: up, down, status, exec, crash, boot, halt, link.

Rule: no decision here; words in, words out, and every failure as one plain paragraph with exit status 1.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from scenarios.lab import fleet, record, topology
from scenarios.lab.fleet import Lab
from scenarios.lab.groups import GroupError
from scenarios.lab.hosts import Host, HostError
from scenarios.lab.programs import ProgramError
from scenarios.lab.record import NoLabError
from scenarios.lab.root import RootError
from scenarios.lab.switch import LineError
from scenarios.lab.topology import Topology, TopologyError

EXPECTED = (GroupError, HostError, LineError, NoLabError, ProgramError, RootError, TopologyError)
Verb = TypeVar("Verb", bound=Callable[..., Any])


class PlainErrors(click.Group):
    """A group whose verbs end with a message instead of a traceback for everything that can be expected."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except EXPECTED as error:
            raise click.ClickException(str(error)) from error


def named(verb: Verb) -> Verb:
    """The option by which every verb is told which lab."""
    return click.option("--name", default="lab", show_default=True, help="Name of the lab.")(verb)


@click.group(cls=PlainErrors)
def main() -> None:
    """A fleet of real hosts on this machine."""
    if os.geteuid() != 0:
        raise click.ClickException("the lab makes namespaces and mounts: run it as root")


@main.command()
@click.option(
    "--topology", "file", type=click.Path(path_type=Path, exists=True), help="TOML file; default: alpha, beta."
)
@click.option("--name", default=None, help="Name of the lab; default: the file's, or lab.")
@click.option("--flavour", type=click.Choice(sorted(topology.FLAVOURS)), help="Instead of the file's.")
@click.option("--fresh", is_flag=True, help="Make it anew, with empty disks, even if it is up.")
def up(file: Path | None, name: str | None, flavour: str | None, fresh: bool) -> None:
    """Bring the lab up. One that is up as asked stays as it is; anything else of the name is removed first."""
    wanted = topology.read(file, name) if file else Topology(name or "lab")
    if flavour:
        wanted = replace(wanted, flavour=flavour)
    lab = _whole(wanted) if not fresh else None
    if lab is None:
        lab = Lab.up(wanted)
    else:
        click.echo(f"lab {wanted.name} is up already")
    for host in lab.hosts:
        click.echo(f"{host.name}: {host.address} {host.address6}")
    click.echo(f"inventory: {lab.inventory}\nshell: ssh -F {lab.ssh_config} {lab.hosts[0].name}")


def _whole(wanted: Topology) -> Lab | None:
    try:
        lab = Lab.load(wanted.name)
    except NoLabError:
        return None
    return lab if lab.whole(wanted) else None


@main.command()
@named
def down(name: str) -> None:
    """Take the lab away."""
    click.echo(f"lab {name} is gone" if fleet.down(name) else f"no lab {name}; nothing of it was left")


@main.command()
@click.option("--name", default=None, help="One lab only.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(name: str | None, as_json: bool) -> None:
    """Which labs there are and how their hosts are."""
    labs = [_status(each) for each in ([name] if name else record.names())]
    if as_json:
        click.echo(json.dumps(labs, indent=1))
        return
    for lab in labs:
        click.echo(f"{lab['name']}: {lab['state']} {lab.get('subnet', '')}")
        for host in lab["hosts"]:
            click.echo(
                f"  {host['name']:<12} {host['state']:<5} {host['address']:<15} process {host['pid']} {host['line']}"
            )


def _status(name: str) -> dict[str, Any]:
    try:
        lab = Lab.load(name)
    except NoLabError as error:
        return {"name": name, "state": str(error), "hosts": []}
    noted = lab.record
    state = "complete" if noted.complete else "half made: take it down or bring it up again"
    hosts = [_host_status(host) for host in lab.hosts]
    return {"name": name, "state": state, "subnet": noted.subnet, "subnet6": noted.subnet6, "hosts": hosts}


def _host_status(host: Host) -> dict[str, Any]:
    now = host.record
    line = {key: getattr(now.line, key) for key in ("rate", "loss_percent", "latency_ms", "flow_mbit", "up")}
    state = "up" if host.alive else "down"
    return {
        "name": host.name,
        "state": state,
        "address": now.address,
        "address6": now.address6,
        "pid": now.pid,
        "netns": now.netns,
        "line": line,
    }


@main.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@named
@click.argument("place")
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(name: str, place: str, words: tuple[str, ...]) -> None:
    """Run a program inside a host, or in the network of `client`; its exit status is this one's."""
    lab = Lab.load(name)
    argv = (lab.client if place == "client" else lab.host(place)).argv(words[1:] if words[0] == "--" else words)
    os.execvp(argv[0], argv)


@main.command()
@named
@click.argument("host")
def crash(name: str, host: str) -> None:
    """End every process of a host at once, like a power cut."""
    Lab.load(name).host(host).crash()


@main.command()
@named
@click.argument("host")
def boot(name: str, host: str) -> None:
    """Start a host from its disk."""
    Lab.load(name).host(host).boot()


@main.command()
@named
@click.argument("host")
def halt(name: str, host: str) -> None:
    """Power a host off in order, its stop scripts first."""
    Lab.load(name).host(host).halt()


@main.command()
@named
@click.option("--rate", default=None, help="Bandwidth each way, like 1gbit; empty: no limit.")
@click.option("--loss", "loss_percent", type=click.FloatRange(0, 100), default=None, help="Percent lost each way.")
@click.option("--latency", "latency_ms", type=click.FloatRange(0), default=None, help="Milliseconds, there and back.")
@click.option("--flow", "flow_mbit", type=click.FloatRange(0), default=None, help="Mbit/s that one connection gets.")
@click.option("--up/--down", "is_up", default=None, help="Plug the line in, or pull it.")
@click.argument("host")
def link(name: str, host: str, is_up: bool | None, **line: Any) -> None:
    """Change the line of a host; what is not named stays."""
    Lab.load(name).host(host).set_link(**line, up=is_up)


if __name__ == "__main__":
    main()
