"""One stored element as a float32 and back, and blocks of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

BLOCK = 1024  # elements; a block of every intermediate stays in the first-level cache
ZERO = np.float32(0)
U = np.uint64

jit: Any = njit(nogil=True, cache=True, error_model="numpy")


@intrinsic
def widen(context: Any, x: Any) -> Any:
    """A stored element as float32."""

    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        if x == types.uint16:
            wide = builder.zext(args[0], ir.IntType(32))
            return builder.bitcast(builder.shl(wide, ir.IntType(32)(16)), ir.FloatType())
        if x == types.int16:
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())
        return args[0]

    return types.float32(x), code


@intrinsic
def narrow(context: Any, x: Any, like: Any) -> Any:
    """A float32 as an element of an array of ``like``, rounded to nearest, ties to even."""

    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        if like == types.uint16:
            word = ir.IntType(32)
            bits = builder.bitcast(args[0], word)
            odd = builder.and_(builder.lshr(bits, word(16)), word(1))
            rounded = builder.lshr(builder.add(bits, builder.add(odd, word(0x7FFF))), word(16))
            is_nan = builder.fcmp_unordered("uno", args[0], args[0])
            return builder.trunc(builder.select(is_nan, word(0x7FC0), rounded), ir.IntType(16))
        if like == types.int16:
            return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))
        return args[0]

    return like(types.float32, like), code


@intrinsic
def bits_of(context: Any, x: Any) -> Any:
    """The bit pattern of a float32; for magnitudes its order is that of the numbers."""

    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), code


@intrinsic
def where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    """``a`` if the condition holds, else ``b``, without a branch."""

    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(types.boolean, a, a), code


@jit
def load(model: Any, start: Any, size: Any, values: Any) -> None:
    """Widens a block."""
    for i in range(size):
        values[U(i)] = widen(model[start + U(i)])


@jit
def store_block(out: Any, start: Any, size: Any, values: Any) -> None:
    """Rounds a block."""
    like = out[0]
    for i in range(size):
        out[start + U(i)] = narrow(values[U(i)], like)
