"""A process that ends while a VE is looked at stands against nothing."""

import os
import signal

from agents.engines.oci.blockers import Process, _files, _relations


def ended_child() -> Process:
    """One whose status was read while it was there."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    process = Process(pid)
    assert process.status["PPid"] == str(os.getpid())
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return process


def test_what_has_ended_is_in_no_namespace_of_its_own() -> None:
    """Its namespaces cannot be read any more: a move is not refused for that, nor made by stop/copy instead of live."""
    ended, first = ended_child(), Process(os.getpid())

    assert first.namespace("pid")
    assert not ended.namespace("pid")
    assert list(_relations(ended, first)) == []
    assert list(_files(ended)) == []
