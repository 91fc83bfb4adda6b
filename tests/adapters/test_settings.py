"""The inventory file: everything that is wrong with it at once, each with file and line; edits touch nothing else."""

from pathlib import Path

import pytest

from migrator.adapters import settings
from migrator.adapters.settings import SettingsError
from migrator.core.inventory import Host

GOOD = """\
# the fleet
[[host]]
name = "alpha"
address = "192.0.2.1"

[[host]]
name = "beta"   # the new one
address = "192.0.2.2"
port = 2222
tags = ["ssd"]
parallel = 4
migration_address = "198.51.100.2"
names = { bridge = { lan = "br0" } }
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the inventory is."""
    return tmp_path / "inventory.toml"


def problems(file: Path, text: str) -> list[str]:
    """What is wrong with an inventory of this text, without the file's name."""
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        settings.read(file)
    assert all(each.startswith(f"{file}") for each in caught.value.problems)
    return [each.removeprefix(f"{file}") for each in caught.value.problems]


def test_every_field_is_read(file: Path) -> None:
    """What the file says is what the fleet is; what it does not say has its default."""
    file.write_text(GOOD)

    alpha, beta = settings.read(file).hosts

    assert alpha == Host("alpha", "192.0.2.1")
    assert (beta.port, beta.tags, beta.parallel, beta.names) == (2222, ("ssd",), 4, {"bridge": {"lan": "br0"}})
    assert (alpha.bulk_address, beta.bulk_address) == ("192.0.2.1", "198.51.100.2")


def test_all_errors_at_once_with_their_lines(file: Path) -> None:
    """Five things wrong in three hosts: five complaints, each at its own line."""
    text = (
        '[[host]]\nname = "alpha"\naddress = "192.0.2.1"\nport = "22"\n'  # 1-4
        '[[host]]\nname = "-x"\naddress = "192.0.2.2"\nparallel = 0\n'  # 5-8
        '[[host]]\nname = "gamma"\ncolour = "red"\naddress = "192.0.2.3"\n'  # 9-12
        "[limits]\n"  # 13
    )

    found = problems(file, text)

    assert [each.split(": ")[0] for each in sorted(found, key=lambda each: int(each.split(":")[1]))] == [
        ":4", ":6", ":8", ":11", ":13"
    ]  # fmt: skip
    assert any("'alpha': port = '22': expected int" in each for each in found)
    assert any("'gamma': unknown colour" in each and "known are: name, address" in each for each in found)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ('[[host]]\nname = "alpha"\n', 2, "address is missing"),
        ('[[host]]\naddress = "192.0.2.1"\n', 1, "name is missing"),
        ('[[host]]\nname = "a"\naddress = ""\n', 3, "is no address"),
        ('[[host]]\nname = "a"\naddress = "-oProxyCommand=x"\n', 3, "is no address"),
        ('[[host]]\nname = "../x"\naddress = "192.0.2.1"\n', 2, "is no name"),
        ('[[host]]\nname = "--help"\naddress = "192.0.2.1"\n', 2, "is no name"),
        ('[[host]]\nname = "a"\naddress = "192.0.2.1"\nport = 70000\n', 4, "is no port"),
        ('[[host]]\nname = "a"\naddress = "192.0.2.1"\nport = true\n', 4, "port"),
        ('[host]\nname = "a"\n', 1, "two brackets"),
        ('hosts = 3\n', 1, "unknown 'hosts'"),
        ('[[host]]\nname = "a"\naddress = "192.0.2.1"\n' * 2, 5, "a second host 'a'"),
        ('[[host]]\nname = "a"\naddress = "192.0.2.1"\ntags = "ssd"\n', 4, "tags"),
        ('[[host]]\nname = "a"\naddress = "192.0.2.1"\nbandwidth_mbit = -1\n', 4, "bandwidth_mbit"),
    ],
)  # fmt: skip
def test_one_error_at_its_line(file: Path, text: str, line: int, words: str) -> None:
    """Each kind of mistake is named, with the line a person has to go to."""
    [found] = problems(file, text)

    assert found.startswith(f":{line}: ")
    assert words in found


def test_file_that_is_no_toml(file: Path) -> None:
    """The parser's own words, with its line."""
    [found] = problems(file, '[[host]\nname = "a"\n')

    assert "line 1" in found


@pytest.mark.parametrize(
    ("make", "words"), [("none", "add a first host with"), ("directory", "directory"), ("bytes", "not a text")]
)
def test_file_that_cannot_be_read(file: Path, make: str, words: str) -> None:
    """No file, a directory, not a text: one line that says so; for no file, how to begin."""
    if make == "directory":
        file.mkdir()
    if make == "bytes":
        file.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(SettingsError) as caught:
        settings.read(file)

    [found] = caught.value.problems
    assert words in found
    assert str(file) in found


def test_add_and_remove_leave_the_rest_as_it_was(file: Path) -> None:
    """A host that comes or goes changes its own table only; comments and order stay."""
    file.write_text(GOOD)

    settings.add(file, Host("gamma", "192.0.2.3", identity_file="/k"))
    assert [each.name for each in settings.read(file).hosts] == ["alpha", "beta", "gamma"]
    assert file.read_text().startswith(GOOD)
    settings.remove(file, "gamma")

    assert file.read_text().rstrip() == GOOD.rstrip()


def test_add_replaces_the_host_of_its_name(file: Path) -> None:
    """The same name again is the same host with other words."""
    file.write_text(GOOD)

    settings.add(file, Host("alpha", "192.0.2.9"))

    assert [(each.name, each.address) for each in settings.read(file).hosts] == [
        ("alpha", "192.0.2.9"),
        ("beta", "192.0.2.2"),
    ]


def test_first_host_makes_the_file_and_last_one_leaves_it_empty(tmp_path: Path) -> None:
    """An inventory begins with `host add`, wherever it is to be, and may be empty again."""
    file = tmp_path / "new/inventory.toml"

    settings.add(file, Host("alpha", "192.0.2.1"))
    assert [each.name for each in settings.read(file).hosts] == ["alpha"]
    settings.remove(file, "alpha")

    assert settings.read(file).hosts == ()
