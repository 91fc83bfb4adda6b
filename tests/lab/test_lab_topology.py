"""Topologies: what a lab is made of is checked before anything is made."""

import ipaddress
from pathlib import Path

import pytest

from scenarios.lab.topology import HostSpec, Topology, TopologyError, hosts, read, subnets


def test_file_gives_every_field(tmp_path: Path) -> None:
    """A topology file says everything that a lab can have."""
    file = tmp_path / "three.toml"
    file.write_text(
        'name = "three"\nrate = "100mbit"\nsubnet = "10.9.8.0/24"\n'
        '[[host]]\nname = "a"\ndisk_mb = 64\nmemory_mb = 128\npackages = ["strace"]\nroles = ["x"]\n'
        '[[host]]\nname = "b"\n'
    )

    got = read(file)

    assert got.hosts == (HostSpec("a", 64, 128, ("strace",), ("x",)), HostSpec("b"))
    assert (got.name, got.rate, got.subnet) == ("three", "100mbit", "10.9.8.0/24")


def test_name_on_the_command_line_wins(tmp_path: Path) -> None:
    """One file serves several labs side by side."""
    file = tmp_path / "two.toml"
    file.write_text('name = "filed"\nhosts = ["a", "b"]\n')

    assert read(file, "given").name == "given"
    assert read(file).hosts == hosts("a", "b")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('name = "a-b"', "lab name 'a-b'"),
        ('name = "waytoolongname"', "lab name"),
        ('hosts = ["sw"]', "host name 'sw'"),
        ('hosts = ["../x"]', "host name"),
        ('hosts = ["a", "a"]', "two hosts of one name"),
        ("hosts = []", "0 hosts"),
        ('colour = "red"', "unknown ['colour']"),
        ('[[host]]\nname = "a"\ndisk = 3', "unknown ['disk']"),
        ("[[host]]\ndisk_mb = 3", "name"),
        ("name = ", "Invalid value"),
    ],
)
def test_wrong_file_is_refused_by_name(tmp_path: Path, text: str, complaint: str) -> None:
    """A wrong topology is refused before anything is made, with the file and the entry."""
    file = tmp_path / "wrong.toml"
    file.write_text(text)

    with pytest.raises(TopologyError) as refused:
        read(file)

    assert complaint in str(refused.value)
    assert str(file) in str(refused.value)


def test_labs_side_by_side_get_their_own_networks() -> None:
    """A lab keeps its network from run to run, and moves aside when that is taken."""
    plain = Topology("lab")
    first, first6 = subnets(plain, ())
    second, second6 = subnets(plain, (ipaddress.IPv4Network(first),))

    assert subnets(plain, ()) == (first, first6)
    assert not ipaddress.IPv4Network(first).overlaps(ipaddress.IPv4Network(second))
    assert first6 == second6
    assert subnets(Topology("other"), ())[1] != first6
