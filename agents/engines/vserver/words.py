"""PURE. Names of capabilities and flags that util-vserver 0.30.216 knows, by the file that lists them.

Source: its configuration reference and the lists of its library (bcaps are Linux's own, capabilities(7)).
"""

BCAPS = """
    chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service
    net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin
    sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override
    mac_admin syslog wake_alarm block_suspend
"""
CCAPS = """
    set_utsname set_rlimit fs_security fs_trusted tiocsti raw_icmp syslog oom_adjust audit_control secure_mount
    secure_remount binary_mount dev_mount quota_ctl admin_mapper admin_cloop kthread namespace
"""
FLAGS = """
    lock nproc private fakeinit hideinfo ulimit namespace sched_hard sched_prio sched_pause virt_mem virt_uptime virt_cpu
    virt_load virt_time hide_mount hide_netif hide_vinfo state_setup state_init state_admin sc_helper persistent
    reboot_kill fork_rss prolific igneg_nice igneg_ionice
"""
NFLAGS = """
    lock private single_ip lback_remap lback_allow hide_netif hide_lback persistent state_setup state_admin sc_helper
"""
NCAPS = "tun_create raw_icmp"
UMASK = "fs newns newuts newipc newuser newpid newnet"
GROUPS = ("all", "any", "none")

KNOWN: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (file, frozenset((*names.split(), *GROUPS)))
    for file, names in {
        "bcapabilities": BCAPS,
        "ccapabilities": CCAPS,
        "cflags": FLAGS,
        "flags": FLAGS,
        "nflags": NFLAGS,
        "ncapabilities": NCAPS,
        "umask": UMASK,
    }.items()
)
"""File of the configuration -> names; written in any case, `^N` is a bit's number."""


def strange(file: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a file that are none of its names."""
    known = dict(KNOWN)
    if file not in known:
        return ()
    return tuple(word for word in words if word.lstrip("~!").lower() not in known[file] and "^" not in word)
