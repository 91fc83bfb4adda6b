#!/bin/sh
# First process of a lab host that is a virtual machine: what the kernel does not mount and load by itself, then init.
# The kernel's command line says who this is: lab.name, lab.address and lab.address6 (with prefix length).
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
[ -e /dev/vda ] || mount -t devtmpfs devtmpfs /dev
for word in $(cat /proc/cmdline); do
    case "$word" in
    lab.name=*) name=${word#*=} ;;
    lab.address=*) address=${word#*=} ;;
    lab.address6=*) address6=${word#*=} ;;
    esac
done
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm /run/lock /run/sshd /run/netns
mount -t devpts -o ptmxmode=0666,mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /sys/fs/cgroup/init
echo 0 > /sys/fs/cgroup/init/cgroup.procs
# What CRIU asks the kernel for, and what a VE's network needs.
modprobe -a tun veth bridge 8021q nf_tables inet_diag tcp_diag udp_diag raw_diag unix_diag netlink_diag af_packet_diag
hostname "$name"
ip link set lo up
ip link add br0 address "$(cat /sys/class/net/eth0/address | sed 's/^02/06/')" type bridge
ip link set eth0 master br0 up
ip link set br0 up
ip address add "$address" brd + dev br0
ip address add "$address6" dev br0 nodad
mkdir -p /var/lib/migrator /vz /vservers
exec /usr/bin/python3 -I /usr/local/sbin/lab-init
