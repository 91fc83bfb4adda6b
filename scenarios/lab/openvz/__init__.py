"""Emulated OpenVZ for lab hosts: `tools` runs inside a host, `install` puts it there.

OpenVZ kernels cannot be had on today's machines. The programs here have the syntax, output, exit codes, files and
quirks of vzctl 4.11 and its companions over real processes, namespaces, cgroups, CRIU, routes and proxy ARP. The
engine knows nothing of them.
"""
