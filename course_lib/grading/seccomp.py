"""System calls that a student's process has no use for, refused by the kernel: bubblewrap's seccomp filter.

User namespaces within the sandbox would widen what can be attacked; the kernel's key rings outlive a sandbox
and would carry notes from one student to the next. Classic BPF, see seccomp(2) and linux/filter.h.
"""

from __future__ import annotations

import os
import platform
import struct

_REFUSED = {  # numbers by architecture: x86-64, and the table that 64-bit ARM shares with newer ones
    "ptrace": (101, 117), "pivot_root": (155, 41), "mount": (165, 40), "umount2": (166, 39),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "unshare": (272, 97),
    "perf_event_open": (298, 241), "open_by_handle_at": (304, 265), "setns": (308, 268),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "bpf": (321, 280),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "mount_setattr": (442, 442),
}  # fmt: skip
_MACHINES = {"x86_64": (0, 0xC000003E, 56), "aarch64": (1, 0xC00000B7, 220)}  # column, AUDIT_ARCH, clone
_CLONE3 = 435
_NEW_USER = 0x10000000
_X32 = 0x40000000  # numbers from here on are x86-64's other ABI
_LOAD, _JUMP_EQUAL, _JUMP_FROM, _JUMP_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38


def program(machine: str | None = None) -> bytes:
    """The filter for this architecture; empty where its numbers are not known here."""
    machine = machine or platform.machine()
    if machine not in _MACHINES:
        return b""
    column, architecture, clone = _MACHINES[machine]
    code = [
        (_LOAD, 0, 0, 4), (_JUMP_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0), (_JUMP_FROM, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE | _ENOSYS),
        (_JUMP_EQUAL, 0, 1, _CLONE3), (_RETURN, 0, 0, _REFUSE | _ENOSYS),  # the C library takes clone then
    ]  # fmt: skip
    for numbers in _REFUSED.values():
        code += [(_JUMP_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _REFUSE | _EPERM)]
    code += [(_JUMP_EQUAL, 0, 3, clone), (_LOAD, 0, 0, 16), (_JUMP_ANY, 0, 1, _NEW_USER)]
    code += [(_RETURN, 0, 0, _REFUSE | _EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in code)


def open_program() -> int | None:
    """A descriptor from which bubblewrap reads the filter; the caller closes it. None where there is none."""
    text = program()
    if not text:
        return None
    reader, writer = os.pipe()  # some hundred bytes: the pipe takes them at once
    os.write(writer, text)
    os.close(writer)
    return reader
