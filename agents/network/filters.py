"""Reads and changes a host's firewalls, rule by rule, in the words of `agents.network.ve_rules`.

Rule: adding a rule that is there, and removing one that is not, does nothing; a program that is not there has no rules.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import trio

from agents import shell
from agents.network import ve_rules
from agents.network.ve_rules import HostRule, Named

SAVE = {"ip": "iptables-save", "ip6": "ip6tables-save", "bridge": "ebtables-save"}
LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class Firewalls:
    """What the host's firewalls said at one moment."""

    saved: Mapping[str, str]
    """Family -> output of its save program."""
    native: str
    """`nft -j list ruleset`."""

    def of(self, named: Named) -> tuple[HostRule, ...]:
        """Every rule that speaks of the VE."""
        found: list[HostRule] = []
        for family, text in self.saved.items():
            found += ve_rules.saved(text, family, named)
        others = {family: ve_rules.tables(text) for family, text in self.saved.items()}
        return (*found, *(rule for rule, _ in ve_rules.ruleset(self.native, named, others)))


async def read() -> Firewalls:
    """Ask all of them, side by side."""
    texts: dict[str, str] = {}

    async def ask(family: str, *argv: str) -> None:
        texts[family] = await _output(*argv)

    async with trio.open_nursery() as nursery:
        for family, program in SAVE.items():
            nursery.start_soon(ask, family, program)
        nursery.start_soon(ask, "", "nft", "-j", "list", "ruleset")
    native = texts.pop("")
    return Firewalls({family: texts[family] for family in SAVE}, native)


async def lacking(wanted: Iterable[HostRule]) -> tuple[HostRule, ...]:
    """Those rules for which this host has no chain."""
    native = ve_rules.chains(await _output("nft", "-j", "list", "ruleset"))
    found = []
    for rule in wanted:
        if rule.nft:
            there = (rule.family, rule.table, rule.chain) in native
        else:
            program = ve_rules.IPTABLES[rule.family]
            wait = () if program == "ebtables" else ("-w",)
            listed = "-L" if program == "ebtables" else "-S"
            there = (await shell.run([program, *wait, "-t", rule.table, listed, rule.chain], limit_s=LIMIT_S)).ok
        if not there:
            found.append(rule)
    return tuple(found)


async def add(wanted: Sequence[HostRule]) -> tuple[HostRule, ...]:
    """Put them at the end of their chains; those that could not be added."""
    failed = []
    for rule in wanted:
        if rule.nft:
            if not await _there(rule):
                done = await shell.run(
                    ["nft", "-j", "-f", "-"], limit_s=LIMIT_S, stdin=json.dumps({"nftables": [rule.command()]}).encode()
                )
                failed += [] if done.ok else [rule]
        elif not await _there(rule):
            done = await shell.run(rule.argv("-A"), limit_s=LIMIT_S)
            failed += [] if done.ok else [rule]
    return tuple(failed)


async def remove(unwanted: Sequence[HostRule]) -> None:
    """Take them away."""
    for rule in unwanted:
        if rule.nft:
            for handle in await _handles(rule):
                words = ["delete", "rule", rule.family, rule.table, rule.chain, "handle", str(handle)]
                await shell.run(["nft", *words], limit_s=LIMIT_S)
        else:
            await shell.run(rule.argv("-D"), limit_s=LIMIT_S)


async def _there(rule: HostRule) -> bool:
    if rule.nft:
        return bool(await _handles(rule))
    if rule.family == "bridge":
        text = await _output(SAVE["bridge"])
        return rule in ve_rules.saved(text, "bridge", Named(words=frozenset(word.lower() for word in rule.words)))
    return (await shell.run(rule.argv("-C"), limit_s=LIMIT_S)).ok


async def _handles(rule: HostRule) -> list[int]:
    text = await _output("nft", "-j", "list", "chain", rule.family, rule.table, rule.chain)
    listed = json.loads(text or '{"nftables": []}').get("nftables", [])
    found = []
    for entry in listed:
        if "rule" in entry:
            one = ve_rules.ruleset(json.dumps({"nftables": [entry]}), EVERYTHING, {})
            found += [handle for each, handle in one if each.expr == rule.expr]
    return found


class _Everything(Named):
    def by(self, text: str) -> bool:
        """Every rule."""
        return True


EVERYTHING = _Everything()


async def _output(*argv: str) -> str:
    ran = await shell.run(argv, limit_s=LIMIT_S)
    return ran.stdout if ran.ok else ""
