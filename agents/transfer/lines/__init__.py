"""What a migration's streams go over: as many SSH connections beside each other as it takes to fill the line between two hosts.

``strands`` makes one stream of several connections, ``widening`` decides how many, ``use`` is how the streams of one migration
know of each other; ``rsync_shell`` and ``rsync_server`` are what rsync has at its two ends. Nothing here knows what a stream says.
"""
