"""What util-vserver's programs print, the host rules that speak of a guest, and what rsync could not carry."""

from agents.engines.vserver import output, retag
from agents.engines.vserver.output import Marked
from agents.network import rules

STAT = """CTX   PROC    VSZ    RSS  userTIME   sysTIME    UPTIME NAME
100      5  14.8M   1.4M   0m00s00   0m00s00  29m09s20 web1
40001   12   1.0G    80K   1m00s00   0m07s00   1d02h03 db
"""
SYSINFO = """Versions:
                   Kernel: 4.9.135-vs2.3.9.8
                   VS-API: 0x00020308
                      VCI: 0x0000000013001f11
             util-vserver: 0.30.216-pre3131; Jan 28 2018, 22:02:00

Paths:
            cfg-Directory: /etc/vservers
       pkgstate-Directory: /var/run/vservers
          vserver-Rootdir: /var/lib/vservers
"""
SAVED = """# Generated
*nat
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 192.0.2.1/32 -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.1.0.5:80
-A POSTROUTING -s 10.1.0.5/32 -o eth0 -j SNAT --to-source 192.0.2.1
-A POSTROUTING -s 10.1.0.0/24 -j MASQUERADE
-A POSTROUTING -s 10.1.0.55/32 -j MASQUERADE
COMMIT
*filter
-A OUTPUT -s 10.1.0.5/32 -m owner --uid-owner 33 -m comment --comment "web only" -j DROP
COMMIT
"""


def test_rows_are_matched_by_fixed_columns() -> None:
    """Ids, counts and sizes of `vserver-stat`."""
    rows = output.stat_rows(STAT)

    assert [(row.xid, row.processes, row.name) for row in rows] == [(100, 5, "web1"), (40001, 12, "db")]
    assert rows[1].rss_bytes == 80 * 1024


def test_the_report_is_read_by_label() -> None:
    """Versions, features and paths; `???` of a kernel that is not VServer's is None."""
    info = output.sysinfo(SYSINFO)

    assert (info.api, info.version, info.roots) == (0x20308, "0.30.216-pre3131", "/var/lib/vservers")
    assert (info.vci or 0) & output.VCI_COW == output.VCI_COW
    assert output.sysinfo("  VS-API: ???\n").api is None


def test_attributes_of_files_with_newlines_in_their_names() -> None:
    """A name that goes on in the next line is one name; what is not marked is left out."""
    text = "----buic- /v/w\n-----UIc- /v/w/a\n-----UIc- b\n-----uIc- /v/w/c\nERR --------- /v/w/d\n----buic- /v/w/e\n"

    found = list(output.attributes(text, "/v/w"))

    assert found == [
        Marked("/v/w/a\n-----UIc- b", False, True, True, False),
        Marked("/v/w/c", False, False, True, False),
    ]


def test_counter_file_of_a_disk_limit() -> None:
    """Name and content as the tools keep them between stop and start."""
    assert output.cache_name(100, "/vservers/x") == "100__vservers_x"
    assert output.cache_text(5, 6) == "space_used=5\ninodes_used=6\n"
    assert output.disk_use("1048 77\n") == (1048, 77)
    assert output.disk_use("vdu: error\n") is None


def test_only_rules_that_name_the_address_are_the_guests() -> None:
    """DNAT, SNAT and owner matches of 10.1.0.5; not its subnet's, not those of 10.1.0.55."""
    found = rules.speaking_of(SAVED, 4, ["10.1.0.5"])

    assert [(rule.table, rule.words[0]) for rule in found] == [
        ("nat", "PREROUTING"),
        ("nat", "POSTROUTING"),
        ("filter", "OUTPUT"),
    ]
    assert "web only" in found[2].words


def test_rules_are_rewritten_for_the_other_host() -> None:
    """Device and public address of the target, the guest's own address as it is."""
    found = rules.speaking_of(SAVED, 4, ["10.1.0.5"])

    dnat, snat, _ = (rules.mapped(rule, {"eth0": "br0"}, {"192.0.2.1": "192.0.2.2"}) for rule in found)

    assert dnat.argv("-A")[:8] == ["iptables", "-w", "-t", "nat", "-A", "PREROUTING", "-d", "192.0.2.2/32"]
    assert dnat.words[-1] == "10.1.0.5:80"
    assert snat.words[-5:] == ("br0", "-j", "SNAT", "--to-source", "192.0.2.2")


ALL = retag.Target(tagging=True, cow=True, pool=True)


def test_a_tagging_target_gets_tags_barrier_and_attributes() -> None:
    """In this order: tags before immutability, barrier on the parent and none on the root, links last."""
    marked = [Marked("/v/w/bin/sh", False, True, True, False), Marked("/v/w", True, False, False, False)]

    plan = retag.plan("w", "/v/w", 100, marked, unified=True, can=ALL)

    assert plan.commands == (
        ("chxid", "-c", "100", "-R", "-U", "/v/w"),
        ("setattr", "--barrier", "/v"),
        ("setattr", "--~barrier", "/v/w"),
        ("setattr", "--iunlink", "--immutable", "/v/w/bin/sh"),
        ("vserver", "w", "hashify"),
    )
    assert plan.notes == ()


def test_unified_files_are_not_made_immutable_where_no_write_breaks_the_link() -> None:
    """Without copy-on-write links the guest could not change its own files; so they stay plain, and that is said."""
    marked = [Marked("/v/w/a", False, True, True, False), Marked("/v/w/b", False, False, True, False)]

    plan = retag.plan("w", "/v/w", 100, marked, unified=True, can=retag.Target(tagging=False, cow=False, pool=True))

    assert plan.commands[2:] == (("setattr", "--immutable", "/v/w/b"),)
    assert "plain files" in plan.notes[0]


def test_many_paths_are_set_in_parts() -> None:
    """No argument list becomes too long, and no path is lost."""
    paths = [f"/v/{number:06d}" + "x" * 200 for number in range(2000)]

    parts = list(retag.batches(paths))

    assert len(parts) > 1
    assert [path for part in parts for path in part] == paths
