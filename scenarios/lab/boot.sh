#!/bin/sh
# First process of a lab host: gives it its own root, then becomes its init.
# Arguments: name, shared root, directory of this host. LAB_READY_FD is passed on to init.
set -e
name=$1 lower=$2 own=$3
mount --make-rprivate /
if [ -e "$own/disk.img" ]; then
    mount -o loop,nodiscard "$own/disk.img" "$own/disk"
fi
mkdir -p "$own/disk/upper" "$own/disk/work" "$own/disk/areas"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$own/disk/upper,workdir=$own/disk/work" "$own/root"
cd "$own/root"
if [ ! -e etc/lab-host ]; then
    cp -a "$own/seed/." .
    echo "$name" > etc/lab-host
fi
# Where VEs live is a plain file system, as on real hosts: on an overlay, links, renames and change marks behave differently.
for area in var/lib/migrator vz vservers; do
    mkdir -p "$area" "$own/disk/areas/$area"
    mount --bind "$own/disk/areas/$area" "$area"
done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
# Host processes stay in a leaf: a group with processes cannot hand controllers to VEs' groups beside them.
mkdir -p sys/fs/cgroup/init
echo 0 > sys/fs/cgroup/init/cgroup.procs
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net run/lock run/sshd run/netns run/old-root
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229 net/tun:10:200; do
    IFS=: read -r file major minor <<END
$node
END
    mknod -m 666 "dev/$file" c "$major" "$minor"
done
# The kernel's boot id is the machine's; a host that is booted again must not look as if it never went away.
cat proc/sys/kernel/random/uuid > run/boot_id
mount --bind run/boot_id proc/sys/kernel/random/boot_id
hostname "$name"
pivot_root . run/old-root
cd /
umount -l /run/old-root
rmdir /run/old-root
exec /usr/bin/python3 -I /usr/local/sbin/lab-init
