"""The outer form of a pickled checkpoint, looked at before anything is unpickled: sizes, packing, and what its opcodes would build.

An unpickler that imports nothing can still be made to fill memory (a memo at place two billion, a record that inflates a
thousand times) or to crash (tuples nested so deeply that their hash has no end). Honest files need none of this.
"""

from __future__ import annotations

import pickletools
import tarfile
import zipfile
from pickle import UnpicklingError
from typing import IO, BinaryIO

DEPTH = 400
"""How deeply values may be nested."""
OPCODES, PICKLE_BYTES, RECORDS = 20_000_000, 512 << 20, 200_000
LEGACY_PICKLES = 5
"""In a file of the older format: magic number, version, system, the values, and the keys of their storages."""
POPS = {"REDUCE": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "BINPERSID": 1}
ADDS = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}


def check_checkpoint(file: BinaryIO, size: int) -> None:
    """Check a file that `torch.save` wrote, in either of its formats.

    Args:
        file: open for reading, at any place.
        size: of the file, in bytes.

    Raises:
        UnpicklingError: it asks for what no weights need.
        ValueError, EOFError, BadZipFile: it is damaged, or no such file.
    """
    file.seek(0)
    if zipfile.is_zipfile(file):
        _check_zip(file, size)
        return
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            raise UnpicklingError("it is a tar archive, whose members would be unpacked")
    except tarfile.TarError:
        pass
    file.seek(0)
    for _ in range(LEGACY_PICKLES):
        check_pickle(file, size)


def _check_zip(file: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(file) as packed:
        records = packed.infolist()
        names = [record.filename for record in records]
        if len(names) > RECORDS or len(set(names)) < len(names):
            raise UnpicklingError("its records are too many, or have a name twice")
        # torch.save does not compress.
        if sum(record.file_size for record in records) > 2 * size + (1 << 20):
            raise UnpicklingError("its records are packed to a fraction of their size")
        for record in records:
            if record.filename.endswith(".pkl"):
                if record.file_size > PICKLE_BYTES:
                    raise UnpicklingError("its values without the weights are larger than any training state")
                with packed.open(record) as values:
                    check_pickle(values, record.file_size)


def check_pickle(file: IO[bytes], size: int) -> None:
    """Follow the opcodes of one pickle without building anything, as far as memo and nesting go.

    Args:
        file: at its beginning; afterwards behind its end.
        size: bytes that it has at most.

    Raises:
        UnpicklingError: it nests too deeply, or numbers its memo as no pickler does.
        ValueError: it is damaged.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > OPCODES:
                raise UnpicklingError("it has more steps than any training state")
            _follow(opcode, argument, stack, marks, memo)
            if stack and stack[-1] > DEPTH:
                raise UnpicklingError("it nests values too deeply")
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > size:
                raise UnpicklingError("it numbers its memo beyond its own length")
    except (IndexError, AttributeError) as error:
        raise ValueError("damaged pickle") from error


def _follow(opcode: pickletools.OpcodeInfo, argument: object, stack: list[int], marks: list[int], memo: dict) -> None:
    """Take one step on a stack that holds how deeply each value is nested."""
    name = opcode.name
    if name == "MARK":
        marks.append(len(stack))
    elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo.get(argument, 0))
    elif name == "DUP":
        stack.append(stack[-1])
    elif name == "POP":
        if marks and marks[-1] == len(stack):
            marks.pop()
        else:
            stack.pop()
    elif name in POPS:
        taken = [stack.pop() for _ in range(POPS[name])]
        stack.append(max(taken) + 1)
    elif name in ADDS:
        taken = [stack.pop() for _ in range(ADDS[name])]
        stack[-1] = max(stack[-1], max(taken) + 1)
    elif pickletools.markobject in opcode.stack_before:
        begin = marks.pop()
        taken = stack[begin:]
        del stack[begin:]
        if name == "POP_MARK":
            return
        if name in ("APPENDS", "SETITEMS", "ADDITEMS"):
            stack[-1] = max([stack[-1], *(depth + 1 for depth in taken)])
        else:
            stack.append(max(taken, default=0) + 1)
    else:
        for _ in opcode.stack_before:
            stack.pop()
        stack += [0] * len(opcode.stack_after)
