"""SSH between this machine, the lab's hosts, and each other: real keys, known host keys, and the files that name them.

Rule: a host is trusted by its own key, written down before it boots; nothing ever accepts a key it has not seen.
"""

import uuid
from pathlib import Path

from scenarios.lab.programs import run
from scenarios.lab.record import HostRecord, LabRecord, directory

SSHD = """\
# sshd of a lab host: keys only; everything else as Debian has it.
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
"""


def user_key(lab: str) -> Path:
    """The private key with which this machine logs in as root."""
    return directory(lab) / "id_ed25519"


def make_user_key(lab: LabRecord) -> None:
    """Make the key pair of the lab."""
    _keygen(user_key(lab.name), f"lab-{lab.name}")


def write_seed(lab: LabRecord, host: HostRecord) -> None:
    """What a host's disk has of its own when it boots for the first time."""
    seed = directory(lab.name) / host.spec.name / "seed"
    for part, mode in (("etc/ssh/sshd_config.d", 0o755), ("usr/local/sbin", 0o755), ("root/.ssh", 0o700)):
        (seed / part).mkdir(parents=True, exist_ok=True, mode=mode)
    (seed / "root").chmod(0o700)
    _keygen(seed / "etc/ssh/ssh_host_ed25519_key", host.spec.name)
    (seed / "etc/ssh/sshd_config.d/lab.conf").write_text(SSHD)
    authorized = seed / "root/.ssh/authorized_keys"
    authorized.write_text(user_key(lab.name).with_suffix(".pub").read_text())
    authorized.chmod(0o600)
    (seed / "etc/hostname").write_text(f"{host.spec.name}\n")
    (seed / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (seed / "etc/hosts").write_text(
        "127.0.0.1 localhost\n::1 localhost\n" + "".join(_names(each) for each in lab.hosts)
    )
    init = seed / "usr/local/sbin/lab-init"
    init.write_bytes((Path(__file__).parent / "lab_init.py").read_bytes())


def write_files(lab: LabRecord) -> None:
    """known_hosts, ssh_config and migrator's inventory.toml."""
    base = directory(lab.name)
    known = base / "known_hosts"
    known.write_text("".join(_known(base, host) for host in lab.hosts))
    options = f"  User root\n  IdentityFile {user_key(lab.name)}\n  IdentitiesOnly yes\n"
    trust = f"  UserKnownHostsFile {known}\n  GlobalKnownHostsFile none\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
    (base / "ssh_config").write_text(
        "".join(f"Host {host.spec.name}\n  HostName {host.address}\n{options}{trust}" for host in lab.hosts)
    )
    (base / "inventory.toml").write_text("\n".join(_inventory(lab, host, known) for host in lab.hosts))


def _keygen(key: Path, comment: str) -> None:
    key.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(key)])


def _names(host: HostRecord) -> str:
    return f"{host.address} {host.spec.name}\n{host.address6} {host.spec.name}\n"


def _known(base: Path, host: HostRecord) -> str:
    public = (base / host.spec.name / "seed/etc/ssh/ssh_host_ed25519_key.pub").read_text().split()
    return f"{host.spec.name},{host.address},{host.address6} {public[0]} {public[1]}\n"


def _inventory(lab: LabRecord, host: HostRecord, known: Path) -> str:
    return (
        f'[[host]]\nname = "{host.spec.name}"\naddress = "{host.address}"\nport = 22\nuser = "root"\n'
        f'identity_file = "{user_key(lab.name)}"\nknown_hosts = "{known}"\n'
    )
