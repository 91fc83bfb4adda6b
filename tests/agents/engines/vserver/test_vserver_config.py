"""Reading a guest's configuration, rewriting it for another host, and what clashes there."""

from dataclasses import replace

import pytest

from agents.engines.vserver import fstab
from agents.engines.vserver.clashes import Here, Neighbour, clashes
from agents.engines.vserver.guest import Guest, read
from agents.engines.vserver.maps import parse
from agents.engines.vserver.rewrite import HostPaths, rewrite
from agents.engines.vserver.tree import File, Link, Tree


def tree_of(**files: str) -> Tree:
    """A guest on eth0, with more files on top (`__` stands for `/`)."""
    base = {
        "context": "100\n",
        "name": "web1\n",
        "interfaces__dev": "eth0\n",
        "interfaces__0__ip": "10.0.0.5\n",
        "interfaces__0__prefix": "24\n",
        "interfaces__0__name": "web\n",
        "fstab": "# ours\nnone\t/proc proc  defaults 0 0\n/srv/www   /www none bind,ro 0 0\n",
        "apps__init__mark": "default\n",
    }
    tree = Tree({})
    for path, content in {**base, **files}.items():
        tree = tree.with_content(path.replace("__", "/"), content.encode())
    links = {"vdir": "/vservers/web1", "run": "/var/run/vservers/web1", "cache": "/var/cache/vservers/web1"}
    for path, target in links.items():
        tree = tree.with_link(path, target)
    return tree


def guest_of(**files: str) -> Guest:
    return read("web1", "/etc/vservers/web1", tree_of(**files))


def test_a_guest_is_read_whole() -> None:
    """Ids, address with its defaults, mounts, mark and links."""
    guest = guest_of()

    (address,) = guest.addresses
    assert (guest.context, guest.nid, guest.file_tag, guest.mark) == (100, 100, 100, "default")
    assert (address.with_prefix, address.device, address.full_label) == ("10.0.0.5/24", "eth0", "eth0:web")
    assert [mount.host_path for mount in guest.mounts] == [None, "/srv/www"]
    assert guest.problems == ()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"context": "1\n"}, "context holds '1'"),
        ({"context": "49152\n"}, "context holds"),
        ({"ncontext": "x\n"}, "ncontext holds"),
        ({"interfaces__0__ip": "10.0.0.500\n"}, "interfaces/0"),
        ({"interfaces__0__prefix": "33\n"}, "longer than an address"),
        ({"dlimits__0__space_total": "5\n"}, "names no directory"),
        ({"dlimits__0__directory": "/v\n", "dlimits__0__space_total": "x\n"}, "not a number"),
    ],
)
def test_what_cannot_be_understood_is_a_problem(files: dict[str, str], problem: str) -> None:
    """A wrong value is named with its file, never replaced by a guess."""
    assert any(problem in found for found in guest_of(**files).problems)


def test_a_path_beyond_what_the_kernel_keeps_is_a_problem() -> None:
    """A configuration path of more than 64 characters never counts as running; it is refused."""
    guest = read("x" * 60, "/etc/vservers/" + "x" * 60, tree_of())

    assert any("never count as running" in problem for problem in guest.problems)


def test_without_maps_only_the_mark_goes() -> None:
    """Same paths, no maps: everything stays byte for byte but the boot mark, which must not start it on the target."""
    tree = tree_of(odd="\x01 no newline")

    after = rewrite(tree, "web1", HostPaths(), parse(""))

    assert after.tree == tree.without("apps/init/mark")
    assert [change.path for change in after.changes] == ["apps/init/mark"]


def test_maps_change_what_they_name_and_nothing_else() -> None:
    """Device, label, prefix, mount source, disk limit, cpuset, cgroup, id and links, each in its place."""
    maps = parse(
        """
        [devices]
        eth0 = "br0"
        [labels]
        web = "w2"
        [directories]
        "/srv" = "/data"
        [cpuset]
        "4-7" = "0-1"
        [cgroup]
        "8:0" = "254:0"
        [guests.web1]
        context = 140
        prefix = {"10.0.0.5" = 32}
        """
    )
    tree = tree_of(
        ncontext="100\n", tag="77\n", cpuset__cpus="4-7\n", cgroup__blkio="8:0 100\n8:16 5\n",
        dlimits__0__directory="/srv\n",
    )  # fmt: skip

    after = rewrite(tree, "web1", HostPaths(roots="/var/lib/vservers"), maps).tree

    values = ("context", "ncontext", "tag", "interfaces/dev", "interfaces/0/prefix", "interfaces/0/name", "cpuset/cpus")
    assert [after.value(path) for path in values] == ["140", "140", "77", "br0", "32", "w2", "0-1"]
    assert after.link("vdir") == "/var/lib/vservers/web1"
    assert after.nodes["fstab"] == File(b"# ours\nnone\t/proc proc  defaults 0 0\n/data/www   /www none bind,ro 0 0\n")
    assert after.nodes["cgroup/blkio"] == File(b"254:0 100\n8:16 5\n")
    assert after.value("dlimits/0/directory") == "/data"


def test_vlan_devices_are_mapped_by_their_parts() -> None:
    """DEV.ID: the parent and the id each through their own map; a whole entry wins."""
    maps = parse('[devices]\neth0 = "bond0"\n"eth1.5" = "v5"\n[vlans]\n12 = 112\n')

    assert [maps.device(name) for name in ("eth0.12", "eth0.13", "eth1.5", "lo")] == [
        "bond0.112", "bond0.13", "v5", "lo",
    ]  # fmt: skip


def test_a_run_link_copied_as_a_file_becomes_a_link_again() -> None:
    """A stale context id in a plain file would say that the guest runs."""
    tree = tree_of().with_node("run", File(b"100\n"))

    after = rewrite(tree, "web1", HostPaths(), parse("")).tree

    assert after.nodes["run"] == Link("/var/run/vservers/web1")


def test_host_scripts_are_pointed_out() -> None:
    """Scripts that run on the host as root travel, and a person is told."""
    notes = rewrite(tree_of(scripts__pre__start="x"), "web1", HostPaths(), parse("")).notes

    assert any("scripts/pre/start runs on the host" in note for note in notes)


@pytest.mark.parametrize("text", ["devicse = {}", 'unclean_stop = "maybe"', "= 3", "[guests.a]\nctx = 1"])
def test_a_slip_in_the_maps_is_an_error(text: str) -> None:
    """A key or value that means nothing is refused, not ignored."""
    with pytest.raises(ValueError):  # noqa: PT011  # four kinds of slip, four messages
        parse(text)


HERE = Here(devices=frozenset({"eth0"}))


def test_a_free_target_has_no_clash() -> None:
    """Nothing taken, everything there: nothing to say."""
    assert clashes(guest_of(), HERE) == ()


NEIGHBOUR = Neighbour("db", 7, 7, 7)
KNOWS_CHOWN = replace(HERE, known_words=(("bcapabilities", frozenset({"chown"})),))


@pytest.mark.parametrize(
    ("here", "files", "expected"),
    [
        (replace(HERE, neighbours=(replace(NEIGHBOUR, context=100),)), {}, "context id 100 belongs to guest db"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, nid=100),)), {}, "network context id 100 belongs to guest db"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, tag=100),)), {}, "file tag 100 belongs to guest db"),
        (replace(HERE, contexts=frozenset({100})), {}, "context id 100 is in use in this kernel"),
        (replace(HERE, networks=frozenset({5})), {"ncontext": "5\n"}, "network context id 5 is in use"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, name="web1"),)), {}, "already configured"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, name="web-1"),)), {}, "share one start-up lock"),
        (replace(HERE, devices=frozenset()), {}, "device eth0, which is not here"),
        (replace(HERE, addresses=frozenset({"10.0.0.5"})), {}, "already on this host"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, addresses=("10.0.0.5",)),)), {}, "configured for guest db"),
        (replace(HERE, neighbours=(replace(NEIGHBOUR, labels=("eth0:web",)),)), {}, "label eth0:web is guest db's"),
        (HERE, {"interfaces__0__name": "a" * 12 + "\n"}, "more than 15 characters"),
        (replace(HERE, network_v2=False), {"interfaces__1__ip": "fd00::5\n"}, "no IPv6 for guests"),
        (replace(HERE, missing_paths=frozenset({"/srv/www"})), {}, "/srv/www, mounted at /www"),
        (replace(HERE, missing_kinds=frozenset({"xfs"})), {"fstab": "/dev/x /d xfs rw 0 0\n"}, "type xfs"),
        (HERE, {"dlimits__0__directory": "/v\n"}, "file system that tags files"),
        (KNOWS_CHOWN, {"bcapabilities": "NEW\n"}, "NEW is unknown"),
        (HERE, {"legacy": ""}, "legacy guest"),
        (HERE, {"context": "x\n"}, "no static context id"),
    ],
)  # fmt: skip
def test_each_clash_is_found_before_anything_stops(here: Here, files: dict[str, str], expected: str) -> None:
    """Loud and silent clashes alike, each with what it is and what to do."""
    found = [str(clash) for clash in clashes(guest_of(**files), here)]

    assert any(expected in clash and "; " in clash for clash in found), found


def test_all_clashes_come_at_once() -> None:
    """An operator sees every reason in one answer."""
    here = Here(neighbours=(Neighbour("db", 100, 100, 100),))

    assert len(clashes(guest_of(), here)) == 4


def test_an_fstab_keeps_its_layout() -> None:
    """Only the source field changes; escapes are understood and made again."""
    before = b"\t/a\\040b  /x none bind 0 0\n\n#/a /b\nproc /proc proc\n"

    after = fstab.rewritten(before, lambda source: source.replace("/a b", "/c d"))

    assert after == b"\t/c\\040d  /x none bind 0 0\n\n#/a /b\nproc /proc proc\n"
