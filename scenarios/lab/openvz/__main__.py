"""`python -m scenarios.lab.openvz LAB`: make every host of a lab that is up an OpenVZ host."""

import sys

from scenarios.lab.fleet import Lab
from scenarios.lab.openvz.install import install, share_template


def main() -> None:
    """Install on all hosts; the template is made on the first."""
    first, *others = Lab.load(sys.argv[1]).hosts
    install(first)
    for host in others:
        share_template(first, host)
        install(host)


if __name__ == "__main__":
    main()
