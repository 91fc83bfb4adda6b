"""PURE. Rules of a host's firewalls that speak of one VE: chosen, adapted to another host, and as commands.

Rule: a rule is the VE's only if it names, as a whole, one of its addresses, hardware addresses or host-side interfaces; it
moves in its own words. iptables-save(8) and ebtables print a rule in the very words that add it; nft(8) gives and takes
JSON. Tables that iptables keeps inside nft are seen once, by iptables-save.
"""

import ipaddress
import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

IPTABLES = {"ip": "iptables", "ip6": "ip6tables", "bridge": "ebtables"}


@dataclass(frozen=True, slots=True)
class Named:
    """What of a VE a rule may name."""

    addresses: frozenset[str] = frozenset()
    """Without prefix length, in canonical form."""
    words: frozenset[str] = frozenset()
    """Hardware addresses in lower case, and names of host-side interfaces."""

    @classmethod
    def of(cls, addresses: Iterable[str], macs: Iterable[str], interfaces: Iterable[str]) -> "Named":
        """From what the VE's facts hold."""
        plain = frozenset(str(ipaddress.ip_interface(address).ip) for address in addresses)
        return cls(plain, frozenset({*(mac.lower() for mac in macs if mac), *interfaces}))

    def by(self, text: str) -> bool:
        """Whether this word of a rule names it: alone, with a full-length prefix or a port, in a list or a range."""
        if text.lower() in self.words or text in self.words:
            return True
        return any(self._address(part) for part in text.replace(",", " ").replace("-", " ").split())

    def _address(self, part: str) -> bool:
        if part.lower() in self.words:
            return True
        if part.startswith("["):
            part = part[1:].partition("]")[0]
        elif part.count(":") == 1:
            part = part.partition(":")[0]
        address, _, length = part.partition("/")
        if length not in ("", "32", "128", "255.255.255.255"):
            return False
        try:
            return str(ipaddress.ip_address(address)) in self.addresses
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class HostRule:
    """One rule; `words` for the iptables family, `expr` for nft."""

    family: str
    """`ip`, `ip6`, `bridge`, `inet`, ..."""
    table: str
    chain: str
    words: tuple[str, ...] = ()
    expr: list[Any] = field(default_factory=list)
    comment: str = ""

    @property
    def nft(self) -> bool:
        """Whether it is nft's own."""
        return bool(self.expr)

    @property
    def where(self) -> str:
        """Family, table and chain, for a person."""
        return (
            f"{'nft' if self.nft else IPTABLES.get(self.family, self.family)} {self.family} {self.table} {self.chain}"
        )

    def argv(self, act: str) -> list[str]:
        """iptables family: the command that checks (-C), appends (-A) or deletes (-D) it; ebtables cannot check."""
        program = IPTABLES[self.family]
        wait = [] if program == "ebtables" else ["-w"]
        return [program, *wait, "-t", self.table, act, self.chain, *self.words]

    def command(self) -> dict[str, Any]:
        """nft: what adds it, for `nft -j -f -`."""
        rule = {"family": self.family, "table": self.table, "chain": self.chain, "expr": self.expr}
        return {"add": {"rule": {**rule, **({"comment": self.comment} if self.comment else {})}}}

    def plain(self) -> dict[str, Any]:
        """For JSON; `from_plain` is the inverse."""
        return asdict(self)


def from_plain(plain: Mapping[str, Any]) -> HostRule:
    """The inverse of `HostRule.plain`."""
    return HostRule(**{**plain, "words": tuple(plain["words"])})


def saved(text: str, family: str, named: Named) -> tuple[HostRule, ...]:
    """The VE's rules in the output of iptables-save, ip6tables-save or ebtables-save."""
    found, table = [], ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith("-A "):
            chain, *words = shlex.split(line)[1:]
            if any(named.by(word) for word in words):
                found.append(HostRule(family, table, chain, tuple(words)))
    return tuple(found)


def tables(text: str) -> frozenset[str]:
    """The tables an iptables-save text shows."""
    return frozenset(line[1:].strip() for line in text.splitlines() if line.startswith("*"))


def ruleset(text: str, named: Named, others: Mapping[str, frozenset[str]]) -> tuple[tuple[HostRule, int], ...]:
    """The VE's rules in `nft -j list ruleset`, each with its handle; `others`: family -> tables that are iptables'."""
    found = []
    for entry in json.loads(text or '{"nftables": []}').get("nftables", []):
        rule = entry.get("rule")
        if rule is None or rule["table"] in others.get(rule["family"], frozenset()):
            continue
        if any(named.by(leaf) for leaf in _leaves(rule.get("expr", []))):
            expr = _without_counts(rule["expr"])
            one = HostRule(rule["family"], rule["table"], rule["chain"], expr=expr, comment=rule.get("comment", ""))
            found.append((one, int(rule["handle"])))
    return tuple(found)


def chains(text: str) -> frozenset[tuple[str, str, str]]:
    """(family, table, chain) of every chain in `nft -j list ruleset`."""
    listed = json.loads(text or '{"nftables": []}').get("nftables", [])
    found = (entry["chain"] for entry in listed if "chain" in entry)
    return frozenset((chain["family"], chain["table"], chain["name"]) for chain in found)


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        if set(value) == {"addr", "len"}:
            yield f"{value['addr']}/{value['len']}"
            return
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from _leaves(each)


def _without_counts(expr: list[Any]) -> list[Any]:
    """A counter begins at nought on the other host."""
    return [{"counter": None} if isinstance(each, dict) and "counter" in each else each for each in expr]


def mapped(rule: HostRule, names: Mapping[str, str]) -> HostRule:
    """The rule with names of the source (bridges, interfaces) as they are called on the target."""
    words = tuple(names.get(word, word) for word in rule.words)
    return HostRule(rule.family, rule.table, rule.chain, words, _mapped(rule.expr, names), rule.comment)


def _mapped(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, Mapping):
        return {key: _mapped(each, names) for key, each in value.items()}
    return [_mapped(each, names) for each in value] if isinstance(value, list) else value
