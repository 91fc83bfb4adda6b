#!/bin/sh
# First process of a lab host: gives it its own root, then becomes its init.
# Arguments: name, shared root, directory of this host.
set -e
name=$1 lower=$2 own=$3
mount --make-rprivate /
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$own/upper,workdir=$own/work" "$own/root"
cd "$own/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir -p sys/fs/cgroup/init
echo 0 > sys/fs/cgroup/init/cgroup.procs
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/net run/lock run/sshd run/netns
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 fuse:10:229; do
    IFS=: read -r file major minor <<END
$node
END
    mknod -m 666 "dev/$file" c "$major" "$minor"
done
mknod -m 666 dev/net/tun c 10 200
hostname "$name"
mkdir -p .old
pivot_root . .old
cd /
umount -l /.old
exec /usr/bin/python3 -I /usr/local/sbin/lab-init
