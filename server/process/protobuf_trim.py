"""protobuf has the C library give freed memory back with every 10,000th message that it frees: here it does not.

`malloc_trim` then runs on the thread that freed the message, the event loop's: after a burst it took 5 to 18 ms
of it, and what it gave back was faulted in anew by the next messages. `allocator.give_back` does the same at its own
times, beside the loop. (upb_trim_allocfunc in protobuf's python/protobuf.c, where it is switched off after 7.36.)

protobuf has no setting for it. So its library's reference to the function is pointed at another one, in the table that
the dynamic linker has filled: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.reloc.html.
"""

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_FUNCTION: Final = b"malloc_trim"
# Takes one integer, gives 0 for 0, and does nothing.
_INSTEAD: Final = "labs"
# Of the relocations that name a function, by machine: https://gitlab.com/x86-psABIs/x86-64-ABI and
# https://github.com/ARM-software/abi-aa/blob/main/aaelf64/aaelf64.rst.
_KINDS: Final = {"x86_64": (6, 7), "aarch64": (1025, 1026)}
_RELA: Final = 4
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_RELOCATION: Final = struct.Struct("<QQq")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_READ, _WRITE = 1, 2


def why_not() -> str | None:
    """Why it cannot be kept from it; None: it can."""
    if sys.platform != "linux" or platform.machine() not in _KINDS:
        return f"this is {sys.platform} on {platform.machine()}, expected linux on {' or '.join(_KINDS)}"
    library = _library()
    if library is None:
        return "protobuf is not the one with a library of its own (upb)"
    if not hasattr(ctypes.CDLL(None), _FUNCTION.decode()):
        return "the C library has no malloc_trim"
    return None if _references(library) else "this protobuf does not call malloc_trim"


def keep_from_trimming() -> None:
    """Have protobuf's library call a function that does nothing where it would call `malloc_trim`."""
    library, c = _library(), ctypes.CDLL(None)
    assert library is not None, "it was just looked for"
    instead = ctypes.cast(getattr(c, _INSTEAD), ctypes.c_void_p).value
    for address in _references(library):
        page = address & -mmap.PAGESIZE
        # The linker may have made the table read-only when it was filled. A reference lies in one page.
        if c.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), _READ | _WRITE) == 0:
            ctypes.c_void_p.from_address(address).value = instead


def _library() -> Path | None:
    try:
        from google._upb import _message
    except ImportError:
        return None
    return Path(_message.__file__)


def _references(library: Path) -> list[int]:
    """Where in memory stand the addresses by which it calls the function; those that are the C library's function."""
    function = ctypes.cast(getattr(ctypes.CDLL(None), _FUNCTION.decode()), ctypes.c_void_p).value
    base = _base(library)
    if base is None:
        return []
    addresses = [base + offset for offset in _offsets(library.read_bytes())]
    return [address for address in addresses if ctypes.c_void_p.from_address(address).value == function]


def _base(library: Path) -> int | None:
    """Where it is loaded."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, _, offset, _, _, *path = line.split(maxsplit=5)
        if path and path[0] == str(library.resolve()) and int(offset, 16) == 0:
            return int(span.partition("-")[0], 16)
    return None


def _offsets(elf: bytes) -> Iterator[int]:
    """Where the linker has put the function's address, from the library's beginning on."""
    # 64 bits, little-endian.
    if elf[:6] != b"\x7fELF\x02\x01":
        return
    begin, count = struct.unpack_from("<Q", elf, 40)[0], struct.unpack_from("<H", elf, 60)[0]
    sections: list[tuple[Any, ...]] = [_SECTION.unpack_from(elf, begin + _SECTION.size * k) for k in range(count)]
    for _, kind, _, _, at, size, link, *_ in sections:
        if kind != _RELA or not link:
            continue
        symbols = sections[link]
        names = sections[symbols[6]][4]
        for offset, info, _ in _RELOCATION.iter_unpack(elf[at : at + size]):
            if info & 0xFFFFFFFF not in _KINDS[platform.machine()]:
                continue
            name = names + _SYMBOL.unpack_from(elf, symbols[4] + _SYMBOL.size * (info >> 32))[0]
            if elf[name : name + len(_FUNCTION) + 1] == _FUNCTION + b"\0":
                yield offset
