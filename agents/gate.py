"""What a migration's key may do on the target: the forced command of its line in authorized_keys.

Rule: four things and no more: talk to this agent as the peer of this migration, bring images of this migration, reach
the keeper of its memory, and run rsync as a server that writes below one of this migration's directories. The last two may come
over several connections. Everything else ends with a refusal.
"""

import json
import os
import shlex
import sys
from collections.abc import Iterable

from agents import bridge, places
from agents.transfer import images, receivers

REFUSED = 77
PERMITTED_OPTIONS = frozenset(
    {
        "--bwlimit",
        "--compress-level",
        "--delete",
        "--delete-missing-args",
        "--force",
        "--ignore-times",
        "--inplace",
        "--modify-window",
        "--no-r",
        "--numeric-ids",
        "--sparse",
        "--stats",
    }
)
"""Long options that rsync's receiving end may be given; none of them names a file."""


def main(migration: str) -> None:
    """Carry out SSH_ORIGINAL_COMMAND, if it is one of the four."""
    words = shlex.split(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    if words == ["peer"]:
        bridge.main()
    elif words[:1] == ["memory"] and len(words) <= 2:
        bridge.lend(places.memory_socket(migration), *words[1:])
    elif words[:1] == ["memory-strand"] and len(words) == 2:
        bridge.lend(places.memory_socket(migration), words[1], joins=True)
    elif words[:1] == ["rsync-strand"] and len(words) == 2 and places.valid_name(words[1]):
        bridge.lend(receivers.door(migration, words[1]), words[1], joins=True)
    else:
        _receive(migration, words)


def _receive(migration: str, words: list[str]) -> None:
    """Files or images. Noted first, then looked up what is permitted: whoever takes the permission away and then ends all that
    are noted has ended everybody."""
    receivers.note(migration)
    permitted = places.read_permitted(migration)
    if words == ["images"] and permitted:
        print(json.dumps(images.receive(places.images(migration), sys.stdin.buffer)), flush=True)
    elif permitted_rsync(words, migration, permitted):
        os.execvp("rsync", words)
    elif words[:1] == ["rsync-stream"] and permitted_stream(words, migration, permitted):
        from agents.transfer.lines import rsync_server  # the others have no use for it

        status = rsync_server.run(receivers.door(migration, words[1]), words[1], words[2:])
        receivers.withdraw(migration)
        os._exit(status)  # a thread waits for who joins
    else:
        receivers.withdraw(migration)
        print(f"this key is for one migration; refused: {shlex.join(words)[:200]}", file=sys.stderr)
        sys.exit(REFUSED)


def permitted_stream(words: list[str], migration: str, directories: Iterable[str]) -> bool:
    """Whether this is such an rsync, whose input may come over several connections: `rsync-stream NAME rsync --server ...`."""
    return len(words) > 2 and places.valid_name(words[1]) and permitted_rsync(words[2:], migration, directories)


def permitted_rsync(words: list[str], migration: str, directories: Iterable[str]) -> bool:
    """Whether this is rsync's receiving server, writing to one of `directories`, with no option that reaches elsewhere: what
    comes in part may lie where the migration's parts lie."""
    if words[:2] != ["rsync", "--server"] or "--sender" in words or len(words) < 4:
        return False
    *options, here, destination = words[2:]
    directory = next((each for each in directories if destination == f"{each}/"), None)
    if directory is None or here != ".":
        return False
    if "--partial-dir" in options:
        at = options.index("--partial-dir")
        if options[at + 1 : at + 2] != [str(places.partial(directory, migration))]:
            return False
        del options[at : at + 2]
    return all(
        option.startswith("-") and (option[:2] != "--" or option.partition("=")[0] in PERMITTED_OPTIONS)
        for option in options
    )
