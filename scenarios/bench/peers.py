"""How others move a container today, as their manuals and users do it: the recipes that ours is compared with.

Rule: a peer is given its best chance: images in RAM, warm ssh with our cipher, files brought over twice before the
freeze, images whole and uncompressed at 1 Gbit/s. Every step is timed where it runs. Recipes: docs/bench.md.
"""

from dataclasses import dataclass

from scenarios.bench.port import Moved, Start, first_pid, scrub
from scenarios.bench.stage import ADDRESS, Stage
from scenarios.bench.workload import BenchError, Workload
from scenarios.lab import bundles
from scenarios.lab.hosts import Host

LIMIT_S = 600
BOTH = (Start.COLD, Start.WARM)
STEPS = """
set -e -o pipefail
exec 3>&1 1>&2
since=${EPOCHREALTIME/./}
part() { local now=${EPOCHREALTIME/./}; echo "$1=$((now - since))" >&3; since=$now; }
files() { rsync -aHAX --numeric-ids --delete $bundle/ root@$target:$bundle/; }
"""
"""Beginning of a peer's script: `part NAME` says how many microseconds went by since the part before."""
NETWORK = """
set -e
ip netns add $1
ip link add ve-$1 type veth peer name eth0 netns $1
ip -n $1 link set lo up
ip -n $1 link set eth0 up
ip -n $1 address add $2 dev eth0
ip link set ve-$1 up
"""
RUNC = """
ssh root@$target "mkdir -p $bundle $images"
mkdir -p $images
files
files
part 'file passes'
{before}
part prepare
runc checkpoint {options} --image-path=$images --work-path=$images $ve
ip link set ve-$ve nomaster
part dump
rsync -a --whole-file --inplace $images/ root@$target:$images/
part 'copy images'
files
part 'last file pass'
ssh root@$target "ip link set ve-$ve master br0; cd $bundle && \\
    runc restore -d --image-path=$images --work-path=$images $ve </dev/null >/dev/null 2>&1"
part restore
rm -rf $bundle $images
ip netns delete $ve
ssh root@$target "rm -rf $images"
part release
"""
PAGE_SERVER_PORT = 9999
PAGE_SERVER = f'ssh root@$target "criu page-server -D $images --port {PAGE_SERVER_PORT} -o $images/server.log --daemon"'


def timed(stage: Stage, script: str, **words: str) -> dict[str, float]:
    """Run a peer's script on the source; the length of each part in ms. Raises ProgramError."""
    names = "".join(f"{name}={value}\n" for name, value in {"target": stage.target.address, **words}.items())
    done = stage.source.run("bash", "-c", names + STEPS + script, limit_s=LIMIT_S)
    parts = (line.rpartition("=") for line in done.stdout.splitlines())
    return {name: int(took_us) / 1000 for name, _, took_us in parts}


@dataclass(frozen=True, slots=True)
class Runc:
    """runc checkpoint, rsync of the images (or CRIU's page server on the target), rsync of the files, runc restore."""

    name: str
    page_server: bool = False
    peer: bool = True
    packages: tuple[str, ...] = ()
    starts: tuple[Start, ...] = BOTH

    def place(self, stage: Stage, ve: str, workload: Workload) -> None:
        """By `runc run`; the network of the VE is there on both hosts, on the source's bridge."""
        stage.make_bundle(ve, workload, "runc")
        for host in stage.lab.hosts:
            host.run("sh", "-c", NETWORK, "sh", ve, stage.lab.ve_addresses(ADDRESS)[0])
        run = (
            f"ip link set ve-{ve} master br0; cd {bundles.BUNDLES}/{ve} && runc run -d {ve} </dev/null >/dev/null 2>&1"
        )
        stage.source.run("sh", "-c", run)

    def warm(self, stage: Stage, ve: str) -> None:
        """One pass of rsync."""
        timed(stage, "ssh root@$target mkdir -p $bundle; files", bundle=f"{bundles.BUNDLES}/{ve}")

    def move(self, stage: Stage, ve: str) -> Moved:
        """See RUNC."""
        server = f"--page-server {stage.target.address}:{PAGE_SERVER_PORT}" if self.page_server else ""
        script = RUNC.format(before=PAGE_SERVER if self.page_server else "true", options=server)
        return Moved(timed(stage, script, ve=ve, bundle=f"{bundles.BUNDLES}/{ve}", images="/dev/shm/bench-images"))

    def pid(self, host: Host, ve: str) -> int:
        """By its cgroup."""
        return first_pid(host, ve)

    def remove(self, stage: Stage, ve: str) -> None:
        """As every bundle."""
        scrub(stage, ve)


PODMAN_SETUP = """
set -e
mkdir -p /etc/containers /vz/podman
cat > /etc/containers/containers.conf <<END
[containers]
pids_limit = 0
default_ulimits = []
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
END
cat > /etc/containers/storage.conf <<END
[storage]
driver = "overlay"
graphroot = "/vz/podman"
runroot = "/run/podman"
END
echo '{"default":[{"type":"insecureAcceptAnything"}]}' > /etc/containers/policy.json
"""
PODMAN_RUN = """
set -e
ve=$1; bundle=$2; shift 2
tar -C $bundle/rootfs -cf - . | podman import -q - localhost/$ve:1
rm -rf $bundle
podman run -d --name $ve --network none --ulimit host localhost/$ve:1 "$@"
"""
PODMAN_IMAGE = "podman save -q localhost/$ve:1 | ssh root@$target podman load -q"
PODMAN = """
ssh root@$target podman image exists localhost/$ve:1 || { {image}; }
part 'copy image'
podman container checkpoint --compress=none -e $archive $ve
part export
rsync --whole-file $archive root@$target:$archive
part copy
ssh root@$target podman container restore -i $archive
part import
podman rm -f $ve
podman rmi -f localhost/$ve:1
rm -f $archive
ssh root@$target rm -f $archive
part release
"""
ARCHIVE = "/dev/shm/bench-archive.tar"
PODMAN_SCRUB = f"podman rm -f -t 0 $1; podman rmi -f localhost/$1:1; rm -f {ARCHIVE}; true"


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman's checkpoint with export, rsync of the archive, and restore with import; with runc, as crun cannot here."""

    name: str
    peer: bool = True
    packages: tuple[str, ...] = ("podman",)
    starts: tuple[Start, ...] = BOTH

    def place(self, stage: Stage, ve: str, workload: Workload) -> None:
        """The same files and program as an image of its own; a network namespace without a line."""
        stage.make_bundle(ve, workload, "runc")
        for host in stage.lab.hosts:
            host.run("sh", "-c", PODMAN_SETUP)
        words = ["sh", "-c", PODMAN_RUN, "sh", ve, f"{bundles.BUNDLES}/{ve}", *workload.argv()]
        stage.source.run(*words, limit_s=LIMIT_S)

    def warm(self, stage: Stage, ve: str) -> None:
        """The image."""
        timed(stage, PODMAN_IMAGE, ve=ve)

    def move(self, stage: Stage, ve: str) -> Moved:
        """See PODMAN."""
        return Moved(timed(stage, PODMAN.replace("{image}", PODMAN_IMAGE), ve=ve, archive=ARCHIVE))

    def pid(self, host: Host, ve: str) -> int:
        """As Podman says."""
        said = _inspect(host, ve, "{{.State.Pid}}")
        if not said.isdigit() or said == "0":
            raise BenchError(f"Podman runs no {ve} on {host.name}")
        return int(said)

    def remove(self, stage: Stage, ve: str) -> None:
        """Container and image."""
        for host in stage.lab.hosts:
            host.run("sh", "-c", PODMAN_SCRUB, "sh", ve)


def _inspect(host: Host, ve: str, field: str) -> str:
    return host.run("podman", "inspect", "--format", field, ve, check=False).stdout.strip()
