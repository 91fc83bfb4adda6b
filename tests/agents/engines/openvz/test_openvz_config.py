"""A VE's config survives reading and rewriting; every parameter is known by class; output is read as vzctl prints it."""

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.engines.openvz import output, parameters, rewrite
from agents.engines.openvz.config import Config, with_id
from agents.engines.openvz.output import Dialect
from agents.engines.openvz.parameters import Device, Kind, Treatment
from agents.engines.openvz.rewrite import Defaults
from migrator.wire.facts import VeState

EVERY = b"""\
# Configuration of a VE, with every parameter there is
NAME="web"
DESCRIPTION="the shop's \xe9\xe8 front"
ORIGIN_SAMPLE="vswap-256m"
HOSTNAME="web1.example.org"
NAMESERVER="inherit"
SEARCHDOMAIN="example.org"
ONBOOT="yes"
BOOTORDER="7"
DISABLED="no"
STOP_TIMEOUT="60"
VE_ROOT="/vz/root/$VEID"
VE_PRIVATE="/vz/private/${VEID}"
VE_LAYOUT="simfs"
MOUNT_OPTS="noatime"
OSTEMPLATE="debian-13-small"
KMEMSIZE="14372700:14790164"
LOCKEDPAGES="256:256"
PRIVVMPAGES="unlimited"
SHMPAGES="21504:21504"
NUMPROC="240:240"
PHYSPAGES="0:256M"
SWAPPAGES="0:512M"
VM_OVERCOMMIT="1.5"
VMGUARPAGES="33792:9223372036854775807"
OOMGUARPAGES="26112:9223372036854775807"
NUMTCPSOCK="360:360"
NUMFLOCK="188:206"
NUMPTY="16:16"
NUMSIGINFO="256:256"
TCPSNDBUF="1720320:2703360"
TCPRCVBUF="1720320:2703360"
OTHERSOCKBUF="1126080:2097152"
DGRAMRCVBUF="262144:262144"
NUMOTHERSOCK="360"
DCACHESIZE="3409920:3624960"
NUMFILE="9312:9312"
NUMIPTENT="128:128"
AVNUMPROC="180:180"
CPUUNITS="1000"
CPULIMIT="25"
CPUS="2"
CPUMASK="0,2-3"
NODEMASK="all"
IOPRIO="4"
IOLIMIT="10M"
IOPSLIMIT="500"
DISK_QUOTA="yes"
DISKSPACE="2G:2.2G"
DISKINODES="131072:144179"
QUOTATIME="0"
QUOTAUGIDLIMIT="100"
IP_ADDRESS="10.0.0.101 10.1.0.101/24 fd00::101/64"
NETIF="ifname=eth0,bridge=vmbr0,mac=00:18:51:AA:BB:01,host_ifname=veth101.0,host_mac=FE:FF:FF:FF:FF:FF,mac_filter=on;ifname=eth1"
NETDEV=""
PCI=""
DEVICES="b:8:16:rw c:10:200:rw c:5:all:rw"
DEVNODES="net/tun:rw "
CAPABILITY="NET_ADMIN:on SYS_TIME:off"
FEATURES="nfs:on ppp:off sit"
NETFILTER="stateful"
IPTABLES="ipt_REJECT iptable_filter"
MEMINFO="privvmpages:1"
LOCAL_UID="100000"
LOCAL_GID="100000"
SOMETHING_NEW="$(touch /tmp/x) "quoted" `y`"
  INDENTED = odd
BARE=value # no comment, part of the value
CPUUNITS="2000"
not a setting at all
LAST="no newline" """.rstrip()
HERE, THERE = Defaults("/vz/root/$VEID", "/vz/private/$VEID"), Defaults("/srv/root/$VEID", "/srv/private/$VEID")


def plain(kind: str, name: str) -> str:
    return name


lines = st.one_of(
    st.binary(max_size=30),
    st.tuples(
        st.sampled_from([b"A", b"B", b"ONBOOT", b" A", b"#A", b"export A"]),
        st.sampled_from([b"=", b'="', b"= "]),
        st.binary(max_size=20),
        st.sampled_from([b"", b'"', b'" ', b'" # x', b"\r"]),
    ).map(b"".join),
)
files = st.lists(lines).map(b"\n".join)
values = st.text(string.printable.replace("\n", "").replace("\r", ""), max_size=20)


@settings(deadline=None)  # a busy machine is no failure
@given(files)
def test_any_file_survives(data: bytes) -> None:
    """Whatever stands in a file, it is the same file after reading and writing."""
    assert Config.parse(data).render() == data


@settings(deadline=None)  # a busy machine is no failure
@given(files, st.dictionaries(st.sampled_from(["A", "B", "NEW", "ONBOOT"]), st.none() | values))
def test_only_what_was_meant_changes(data: bytes, changes: dict[str, str | None]) -> None:
    """After a change every key has its new value, and every line that sets no changed key is byte for byte as it was."""
    before = Config.parse(data)
    after = Config.parse(before.changed(changes).render())

    assert {key: after.values.get(key) for key in changes} == changes
    assert {**before.values, **changes} == {**after.values, **dict.fromkeys(changes.keys() - after.values.keys())}
    kept = [line.text.rstrip("\n") for line in before.lines if line.key not in changes]
    assert [line.text.rstrip("\n") for line in after.lines if line.key not in changes] == kept


@settings(deadline=None)  # a busy machine is no failure
@given(files)
def test_fence_and_back(data: bytes) -> None:
    """A fenced config that is unfenced has the values it had; fenced, it starts nothing."""
    before = Config.parse(data)
    fenced = rewrite.fenced(before)

    assert (fenced.get("ONBOOT"), fenced.get("DISABLED")) == ("no", "yes")
    assert rewrite.unfenced(fenced, rewrite.fence_state(before)).values == before.values


def test_every_parameter_is_known() -> None:
    """No parameter of the documentation is unknown; a new one is reported, and none is lost or altered."""
    config = Config.parse(EVERY)

    assert config.render() == EVERY
    assert parameters.unknown(config.values) == ("SOMETHING_NEW", "INDENTED", "BARE", "LAST")
    assert config.duplicates == ("CPUUNITS",)
    assert config.get("CPUUNITS") == "1000"
    assert config.get("SOMETHING_NEW") == '$(touch /tmp/x) "quoted" `y`'
    assert {parameters.classify(key)[0] for key in config.values} == set(Kind)
    assert set(parameters.KNOWN) <= {*config.values, "VE_STOP_MODE"}


def test_rewrite_for_another_host() -> None:
    """Paths go where the target keeps VEs, host-side names and bridges follow; every other byte stays."""
    names = {"bridge:vmbr0": "br7"}
    after = rewrite.for_target(
        Config.parse(EVERY), "101", "205", HERE, THERE, lambda kind, name: names.get(f"{kind}:{name}", name)
    )

    wanted = (
        EVERY.replace(b"/vz/root/$VEID", b"/srv/root/$VEID")
        .replace(b"/vz/private/${VEID}", b"/srv/private/$VEID")
        .replace(b"bridge=vmbr0", b"bridge=br7")
        .replace(b"veth101.0", b"veth205.0")
    )
    assert after.render() == wanted


def test_rewrite_that_needs_none() -> None:
    """Between hosts that keep VEs in the same places not a byte changes."""
    assert rewrite.for_target(Config.parse(EVERY), "101", "101", HERE, HERE, plain).render() == EVERY


def test_rewrite_of_places_of_its_own() -> None:
    """A path that is not the host's usual one stays, or goes where the operator maps it."""
    own = Config.parse(b'VE_PRIVATE="/disk2/101"\n')
    names = {"path:/disk2/101": "/disk3/205"}

    stays = rewrite.for_target(own, "101", "101", HERE, THERE, plain)
    mapped = rewrite.for_target(own, "101", "205", HERE, THERE, lambda kind, name: names.get(f"{kind}:{name}", name))

    assert stays.render() == b'VE_PRIVATE="/disk2/101"\n'
    assert mapped.render() == b'VE_PRIVATE="/disk3/205"\n'


def test_values() -> None:
    """Limits with their units, addresses, interfaces, devices and switches mean what vzctl takes them to mean."""
    found = Config.parse(EVERY).values

    assert parameters.is_vswap(found)
    assert not parameters.is_vswap({"PHYSPAGES": "0:unlimited"})
    assert parameters.pair("14372700:14790164") == (14372700, 14790164)
    assert parameters.pair("unlimited") == (parameters.UNLIMITED,) * 2
    assert parameters.pair("0:256M", parameters.PAGE_BYTES) == (0, 65536)
    assert parameters.quota_bytes(found) == int(2.2 * (1 << 30)) // 1024 * 1024
    assert parameters.quota_bytes({"DISKSPACE": "1048576:1153434"}) == 1153434 * 1024
    assert parameters.quota_inodes(found) == 144179
    assert parameters.venet_addresses(found) == ("10.0.0.101", "10.1.0.101", "fd00::101")
    first, second = parameters.netifs(found["NETIF"])
    assert (first.ifname, first.host_ifname("101"), second.host_ifname("101")) == ("eth0", "veth101.0", "veth101.1")
    assert parameters.netif_text((first, second)) == found["NETIF"]
    assert parameters.devnodes(found["DEVNODES"]) == (Device("net/tun", access="rw"),)
    assert parameters.devices(found["DEVICES"])[1:] == (Device("", "c", 10, 200, "rw"), Device("", "c", 5, -1, "rw"))
    assert parameters.switches(found["FEATURES"]) == {"nfs": True, "ppp": False, "sit": True}
    assert parameters.numbers_list("0,2-4") == (0, 2, 3, 4)
    assert parameters.numbers_list("all") == ()
    assert parameters.layout({"VE_LAYOUT": "ploop:expanded"}) == "ploop"
    assert parameters.classify("NETDEV") == (Kind.HOST_DEVICE, Treatment.REFUSED)
    assert with_id("/vz/${VEID}/$VEID", "7") == "/vz/7/7"


def test_value_that_no_line_can_hold() -> None:
    """A value with a newline is refused, not written."""
    with pytest.raises(ValueError, match="HOSTNAME"):
        Config.parse(b"").changed({"HOSTNAME": "a\nDISABLED=no"})


STATES = {
    "CTID 101 exist mounted running": VeState.RUNNING,
    "CTID 101 exist unmounted down": VeState.STOPPED,
    "CTID 101 exist mounted down": VeState.STOPPED,
    "CTID 101 exist unmounted down suspended": VeState.SUSPENDED,
    "CTID 101 deleted unmounted down": VeState.ABSENT,
}


@pytest.mark.parametrize("line", STATES)
def test_status(line: str) -> None:
    """Every status line, also between warnings; another VE's is not taken for it."""
    text = f"Warning: CTID 101 exist, somewhere\nstat(/vz/root/101): No such file or directory\n{line}\n"
    found = output.status(text, "101")
    assert found is not None
    assert found.state is STATES[line]
    assert found.mounted == (" mounted " in line)
    assert output.status(text, "10") is None
    assert output.status("", "101") is None


SEVEN = "2f9d1e5a-0c3b-4f6d-8a7e-112233445566"
STATES_SEVEN = {
    "mounted running": VeState.RUNNING,
    "mounted paused": VeState.FROZEN,
    "unmounted down": VeState.STOPPED,
    "unmounted suspended": VeState.SUSPENDED,
}


@pytest.mark.parametrize("words", STATES_SEVEN)
def test_status_of_seven(words: str) -> None:
    """OpenVZ 7 has UUIDs, `paused`, and `suspended` in place of `down`."""
    found = output.status(f"VEID {SEVEN} exist {words}\n", SEVEN)
    assert found is not None
    assert found.state is STATES_SEVEN[words]


def test_dialects() -> None:
    """The version and the kernel tell which vzctl it is."""
    assert output.version("vzctl version 4.11.1\n") == "4.11.1"
    assert output.dialect("vzctl version 4.11.1\n", openvz_kernel=True) is Dialect.KERNEL
    assert output.dialect("vzctl version 4.11.1\n", openvz_kernel=False) is Dialect.CRIU
    assert output.dialect("vzctl v.9.0.1\n", openvz_kernel=True) is Dialect.SEVEN


def test_ids() -> None:
    """Numbers and UUIDs, and nothing that could be an option, a path or another number's spelling."""
    assert all(output.valid_id(ve) for ve in ("101", "2147483644", SEVEN))
    assert not any(
        output.valid_id(ve) for ve in ("0", "-1", "0101", "2147483645", "web", "../1", "", "١٠١", SEVEN[:-1])
    )


def test_vzlist_that_says_nothing() -> None:
    """Empty output with code 0 is not `no VEs`."""
    assert output.listed("") is None
    assert output.listed("[]\n") == []
    assert output.listed('[\n  {"ctid": 101, "status": "running"}\n]\n') == [{"ctid": 101, "status": "running"}]
    assert output.listed("[broken") is None


def test_unknown_codes() -> None:
    """A signal's code, seen directly or through a shell, says nothing; a code of vzctl's own says that it failed."""
    assert all(output.unknown(code) for code in (None, -6, 134, 137, 139))
    assert not any(output.unknown(code) for code in (0, 16, 17, 31, 79, 131))
    assert output.finished("chkpnt", "\tdump...\nCheckpointing completed successfully\n")
    assert not output.finished("restore", "\tundump...\n")
