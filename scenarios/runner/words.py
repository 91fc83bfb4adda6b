"""PURE. Steps in plain words, and the commands of a step as they are typed."""

from scenarios.runner.steps import (
    AnyStep,
    AsRemembered,
    Connect,
    Connection,
    InterfaceState,
    Migrator,
    Reachable,
    Remember,
    Type,
    Write,
)


def in_words(step: AnyStep) -> str:
    """What a step is, for one that does not say it itself."""
    match step:
        case Type(host=host):
            return f"on {host}"
        case Write(host=host, write=path):
            return f"{path} is written on {host}"
        case Connect(client=name, connect=place):
            return f"client {name} connects to {place} and writes all the time"
        case Migrator():
            return "the program"
        case Remember(remember=host):
            return f"how {host} is now is remembered"
        case Connection(connection="same", client=name):
            return f"client {name} has the TCP connection it had, and nothing that was acknowledged is missing"
        case Connection(client=name):
            return f"client {name} is served again, over a new connection, and nothing acknowledged is missing"
        case Reachable(is_=there, reachable=place):
            return f"{place} is {'reachable' if there else 'not reachable'} from outside"
        case InterfaceState(interface=name, host=host, state=state):
            return f"{name} on {host} is {state}"
        case AsRemembered(as_remembered=host):
            return f"{host} is as it was: nothing is left on it"


def does_what(step: AnyStep) -> str:
    """The commands of a step."""
    match step:
        case Type(host=host, type=lines):
            return "\n".join(f"{host}# {line}" for line in lines.splitlines() if line.strip())
        case Migrator(migrator=words):
            return f"$ migrator {words}"
        case Write(text=text):
            return "\n".join(f"| {line}" for line in text.splitlines())
        case _:
            return ""
