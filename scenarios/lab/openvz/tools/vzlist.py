"""The emulated vzlist: columns, widths, JSON and exit codes of 4.11, over the same facts as `vzctl status`."""

import json
import sys
from pathlib import Path

from . import conf, kernel, network
from .ct import Ct, ids

UNLIMITED = 9223372036854775807
WIDTHS = {
    "ctid": 10, "numproc": 10, "nproc": 10, "physpages": 10, "status": -9, "ip": -15, "hostname": -32, "name": -32,
    "private": -32, "root": -32, "ostemplate": -32, "onboot": 6, "layout": -6, "bootorder": 10, "disabled": 3,
}  # fmt: skip
HEADS = {"numproc": "NPROC", "ip": "IP_ADDR"}
COUNTERS = ("numproc", "physpages")
DEFAULT = "ctid,numproc,status,ip,hostname"


def main(argv: list[str] | None = None) -> int:
    """Run vzlist; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    fields, all_of_them, header, as_json, wanted = DEFAULT.split(","), False, True, False, []
    while words:
        match words.pop(0):
            case "-a":
                all_of_them = True
            case "-H":
                header = False
            case "-j":
                as_json = True
            case "-1":
                header, fields = False, ["ctid"]
            case "-o" if words:
                fields = words.pop(0).split(",")
            case word if word.isdigit():
                wanted.append(int(word))
            case word:
                print(f"vzlist: invalid option -- '{word}'", file=sys.stderr)
                return 1
    if unknown := next((one for one in fields if one not in WIDTHS), None):
        print(f"Unknown field: {unknown}", file=sys.stderr)
        return 1
    if not kernel.openvz():
        print("Unable to open /proc/fairsched: No such file or directory", file=sys.stderr)
        return 0
    return _list(["numproc" if one == "nproc" else one for one in fields], wanted, all_of_them, header, as_json)


def _list(fields: list[str], wanted: list[int], all_of_them: bool, header: bool, as_json: bool) -> int:
    host = conf.host_config()
    found = [Ct.load(ctid, host) for ctid in ids() if not wanted or ctid in wanted]
    found = [one for one in found if one.exists and (all_of_them or wanted or one.running)]
    if as_json:
        print(json.dumps([{field: _value(one, field) for field in fields} for one in found], indent=2))
        return 0
    if not found:
        print("Container(s) not found", file=sys.stderr)
        return 1 if wanted else 0
    if header:
        print(" ".join(_pad(HEADS.get(field, field.upper()), WIDTHS[field]) for field in fields).rstrip())
    for one in found:
        print(" ".join(_pad(_text(one, field, field == fields[-1]), WIDTHS[field]) for field in fields).rstrip())
    return 0


def _pad(text: str, width: int) -> str:
    return text.rjust(width) if width > 0 else text.ljust(-width)


def _value(one: Ct, field: str) -> object:
    if field in COUNTERS:
        held = _held(one, field)
        return {"held": held, "maxheld": held, "barrier": UNLIMITED, "limit": UNLIMITED, "failcnt": 0}
    match field:
        case "ctid":
            return one.ctid
        case "status":
            return status(one)
        case "ip":
            return network.addresses(one.values)
        case "private":
            return str(one.private)
        case "root":
            return str(one.root)
        case "onboot" | "disabled":
            return one.values.get(field.upper()) == "yes"
        case "layout":
            return one.values.get("VE_LAYOUT", "simfs")
        case "bootorder":
            return int(one.values.get("BOOTORDER") or 0)
        case _:
            return one.values.get(field.upper(), "")


def _text(one: Ct, field: str, last: bool) -> str:
    value = _value(one, field)
    if field in COUNTERS:
        return str(_held(one, field)) if one.running else "-"
    if isinstance(value, list):
        return (" ".join(value) if last else (value or ["-"])[0]) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value or "-")


def _held(one: Ct, field: str) -> int:
    pids = kernel.processes(one.ctid)
    if field == "numproc":
        return len(pids)
    return sum(_resident_pages(pid) for pid in pids)


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


def status(one: Ct) -> str:
    """The one word vzlist has for a container's state."""
    words = one.status().split()
    if words[4] == "running":
        return "running"
    return "suspended" if words[-1] == "suspended" else "mounted" if words[3] == "mounted" else "stopped"
