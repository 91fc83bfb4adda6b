"""What a migration's key may do on the target: the forced command of its line in authorized_keys.

Rule: three things and no more: talk to this agent as the peer of this migration, bring images of this migration, and
run rsync as a server that writes below this migration's directory. Everything else ends with a refusal.
"""

import json
import os
import shlex
import sys

from agents import bridge, places
from agents.transfer import images

REFUSED = 77


def main(migration: str, root: str) -> None:
    """Carry out SSH_ORIGINAL_COMMAND, if it is one of the three."""
    words = shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if words == ["peer"]:
        bridge.main()
    elif words == ["images"]:
        manifest = images.receive(places.images(migration), sys.stdin.buffer)
        print(json.dumps(manifest), flush=True)
    elif permitted_rsync(words, root):
        os.execvp("rsync", words)
    else:
        print(f"this key is for one migration; refused: {shlex.join(words)[:200]}", file=sys.stderr)
        sys.exit(REFUSED)


def permitted_rsync(words: list[str], root: str) -> bool:
    """Whether this is rsync's receiving server, writing to exactly `root`, with no option that reaches elsewhere."""
    if words[:2] != ["rsync", "--server"] or "--sender" in words or len(words) < 4:
        return False
    *options, here, destination = words[2:]
    allowed = ("--delete", "--numeric-ids", "--stats", "--bwlimit=", "--sparse", "--inplace", "--whole-file")
    fine = all(option.startswith(allowed) or not option.startswith("--") for option in options)
    return fine and all(option.startswith("-") for option in options) and here == "." and destination == f"{root}/"
