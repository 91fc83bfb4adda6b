"""`python -m scenarios.lab.openvz LAB [--ordinary-kernel]`: make the hosts of a lab that is up OpenVZ hosts."""

import sys

from scenarios.lab.fleet import Lab
from scenarios.lab.openvz.install import install_lab


def main() -> None:
    """Install on the hosts with the role `openvz`, or on all; the template is made on the first."""
    name, *options = sys.argv[1:]
    for host in install_lab(Lab.load(name), ordinary_kernel="--ordinary-kernel" in options):
        print(f"{host.name} is an OpenVZ host")


if __name__ == "__main__":
    main()
