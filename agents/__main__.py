"""The agent's program: `serve` is the daemon, `bridge` and `gate` are what SSH sessions run, `watch`,
`rsync-shell`, `memory-sender`, `page-server`, `memory-keeper` and `veil` are processes the daemon starts, the others install it.

Rule: `bridge` and `gate` import nothing heavy; they start in milliseconds.
"""

import sys
from pathlib import Path


def main() -> None:
    """Dispatch on the first argument."""
    match sys.argv[1:]:
        case ["serve"]:
            import trio

            from agents.serve import serve

            trio.run(serve)
        case ["bridge"]:
            from agents import bridge

            bridge.main()
        case ["gate", migration]:
            from agents import gate

            gate.main(migration)
        case ["watch", root]:
            from agents.transfer.changes import watcher

            watcher.main(root)
        case ["rsync-shell", task, *words]:
            from agents.transfer.lines import rsync_shell

            rsync_shell.main(task, *words)
        case ["memory-sender"]:
            from agents.transfer.memory import sender

            sender.main()
        case ["page-server"]:
            from agents.transfer.memory import page_server

            page_server.main()
        case ["memory-keeper", path, cap_bytes, log]:
            from agents.transfer.memory import keeper

            keeper.main(Path(path), int(cap_bytes), Path(log))
        case ["veil", directory]:
            from agents.transfer.memory import veil

            veil.main(Path(directory))
        case ["supervise" | "stop" as verb]:
            from agents import supervise

            supervise.supervise() if verb == "supervise" else supervise.stop()
        case ["install" | "remove" as verb]:
            from agents import boot

            boot.install() if verb == "install" else boot.remove()
        case _:
            usage = "usage: migrator-agent serve | bridge | gate MIGRATION | supervise | stop | install | remove"
            print(usage, file=sys.stderr)
            sys.exit(64)


if __name__ == "__main__":
    main()
