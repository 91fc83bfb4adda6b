"""PURE. Rules of the host's iptables that speak of a guest: chosen, rewritten, and as commands.

Rule: only rules that name one of the guest's addresses as a whole are the guest's; they are put on the target before
the guest starts there and taken off the source when it is given away. `iptables-save` prints one rule a line in the
very words `iptables` takes (iptables-save(8)).
"""

import ipaddress
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule."""

    family: int
    table: str
    words: tuple[str, ...]
    """Without the leading `-A`: chain first."""

    @property
    def names(self) -> frozenset[str]:
        """Every single address that it names."""
        return frozenset(address for word in self.words for address in _named(word))

    def argv(self, act: str) -> list[str]:
        """The command that checks (`-C`), appends (`-A`) or deletes (`-D`) it."""
        program = "iptables" if self.family == 4 else "ip6tables"
        return [program, "-w", "-t", self.table, act, *self.words]


def speaking_of(saved: str, family: int, addresses: Iterable[str]) -> tuple[HostRule, ...]:
    """The rules of an `iptables-save` text that name one of these addresses (no prefix length)."""
    wanted = {_canonical(address) for address in addresses}
    found, table = [], ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A "):
            words = tuple(shlex.split(line))[1:]
            if wanted & {named for word in words for named in _named(word)}:
                found.append(HostRule(family, table, words))
    return tuple(found)


def mapped(rule: HostRule, devices: Mapping[str, str], addresses: Mapping[str, str]) -> HostRule:
    """The rule for another host: its devices after -i and -o, its public addresses anywhere."""
    words = list(rule.words)
    for at, word in enumerate(words):
        if at and words[at - 1] in ("-i", "-o"):
            words[at] = devices.get(word, word)
        else:
            words[at] = _replace(word, addresses)
    return HostRule(rule.family, rule.table, tuple(words))


def _replace(word: str, addresses: Mapping[str, str]) -> str:
    for before, after in addresses.items():
        if word == before or word.startswith((f"{before}/", f"{before}:")):
            return after + word[len(before) :]
    return word


def _named(word: str) -> Iterable[str]:
    """Addresses a word names: alone, with a whole-length prefix, with a port, in a list or at a range's ends."""
    for part in word.replace(",", " ").replace("-", " ").split():
        yield from _one(part)


def _one(part: str) -> Iterable[str]:
    if part.startswith("["):
        part = part[1:].partition("]")[0]
    elif part.count(":") == 1:
        part = part.partition(":")[0]
    address, slash, length = part.partition("/")
    if slash and length not in ("32", "128", "255.255.255.255"):
        return
    try:
        yield _canonical(address)
    except ValueError:
        return


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))
