"""Emulated Linux-VServer for lab hosts: `tools` runs inside a host, `install` puts it there.

VServer kernels cannot be had on today's machines. The programs here have the syntax, output, exit codes, files and
quirks of util-vserver over real processes, mount namespaces and addresses; contexts, tags and file attributes are
remembered beside them. The engine knows nothing of that.
"""
