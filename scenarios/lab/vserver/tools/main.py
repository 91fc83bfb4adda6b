"""Which program this is: its name says so."""

import os
import sys
from collections.abc import Callable

from . import context_tools, file_tools, frontend, status

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "vserver": frontend.vserver,
    "start-vservers": frontend.start_marked,
    "vserver-stat": lambda _: status.print_stat(),
    "vserver-info": status.info,
    "vps": status.vps,
    "vattribute": context_tools.vattribute,
    "nattribute": context_tools.nattribute,
    "naddress": context_tools.naddress,
    "ncontext": context_tools.ncontext,
    "vcontext": context_tools.vcontext,
    "chcontext": context_tools.chcontext,
    "chbind": context_tools.chbind,
    "vnamespace": context_tools.vnamespace,
    "vspace": context_tools.vspace,
    "vtag": context_tools.vtag,
    "vuname": context_tools.vuname,
    "vkill": context_tools.vkill,
    "vwait": context_tools.vwait,
    "vprocunhide": context_tools.vprocunhide,
    "util-vserver": context_tools.util_vserver,
    "vshelper": context_tools.vshelper,
    "setattr": file_tools.setattr_,
    "showattr": file_tools.showattr,
    "lsxid": file_tools.lsxid,
    "chxid": file_tools.chxid,
    "vdlimit": file_tools.vdlimit,
    "vdu": file_tools.vdu,
    "vhashify": file_tools.vhashify,
}


def main() -> None:
    """Run the program that was called."""
    name = os.path.basename(sys.argv[0])
    if not context_tools.usable(name):
        sys.exit(context_tools.not_a_vserver_kernel(name))
    code = PROGRAMS[name](sys.argv[1:])
    sys.stdout.flush()
    sys.exit(code)
