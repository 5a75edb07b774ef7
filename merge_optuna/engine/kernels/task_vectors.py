"""Fused merge kernels: one pass over the sources, block by block in the processor's cache.

They give the same bits as the torch kernels of ``merge_optuna.methods`` on float32 values: the
same operations in the same order, each rounded once, never contracted. Arrays are flat; bfloat16
is passed as uint16 and float16 as int16. All run without the interpreter lock, so that tensors
merge on several threads.

Written for LLVM's vectoriser: selects instead of branches, unsigned indices (numba wraps signed
ones), stages that each touch a few arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

_BLOCK = 1024  # elements; a block of every intermediate stays in the first-level cache
_ZERO = np.float32(0)
_U = np.uint64

SUM, AGREEING, MEAN = 0, 1, 2
"""What is added up: all entries, those of the elected sign, or the mean of the latter."""

_jit: Any = njit(nogil=True, cache=True, error_model="numpy")


# -- one element ------------------------------------------------------------------------------


@intrinsic
def _widen(context: Any, x: Any) -> Any:
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
def _narrow(context: Any, x: Any, like: Any) -> Any:
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
def _bits(context: Any, x: Any) -> Any:
    """The bit pattern of a float32; for magnitudes its order is that of the numbers."""

    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), code


@intrinsic
def _where(context: Any, condition: Any, a: Any, b: Any) -> Any:
    def code(_: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return a(types.boolean, a, a), code


# -- linear combinations ----------------------------------------------------------------------


@_jit
def combine(out: Any, models: Any, coefficients: Any) -> None:
    """Σ c·θ, in the order of the models."""
    total = np.empty(_BLOCK, np.float32)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        for k in range(len(models)):
            _add_scaled(total, models[k], start, size, coefficients[k], k == 0)
        _store(out, start, size, total)


@_jit
def splice(out: Any, models: Any, starts: Any, coefficients: Any) -> None:
    """Σ c·θ on each segment; the first one may begin before the elements."""
    total = np.empty(_BLOCK, np.float32)
    for s in range(len(starts)):
        begin = max(starts[s], 0)
        end = min(starts[s + 1], out.size) if s + 1 < len(starts) else out.size
        for at in range(begin, end, _BLOCK):
            size, start = min(_BLOCK, end - at), _U(at)
            for k in range(len(models)):
                _add_scaled(total, models[k], start, size, coefficients[s, k], k == 0)
            _store(out, start, size, total)


@_jit
def add_scaled(total: Any, model: Any, c: Any, first: Any) -> None:
    """Adds c·θ to the beginning of ``total``, or begins with it."""
    _add_scaled(total, model, _U(0), model.size, c, first)


@_jit
def store(out: Any, values: Any) -> None:
    """Rounds as many values as there is room for."""
    _store(out, _U(0), out.size, values)


@_jit
def _add_scaled(total: Any, model: Any, start: Any, size: Any, c: Any, first: Any) -> None:
    if first:
        for i in range(size):
            total[_U(i)] = _widen(model[start + _U(i)]) * c
    else:
        for i in range(size):
            total[_U(i)] += _widen(model[start + _U(i)]) * c


@_jit
def _store(out: Any, start: Any, size: Any, values: Any) -> None:
    like = out[0]
    for i in range(size):
        out[start + _U(i)] = _narrow(values[_U(i)], like)


@_jit
def gram(models: Any) -> Any:
    """Dot products of the models with each other, summed in float64.

    Every lane sums the elements of one place in all blocks, so the order of the sums, and with it
    their last bit, is the same on every machine.
    """
    n = len(models)
    values, lanes = np.empty((n, _BLOCK)), np.zeros((n, n, _BLOCK))
    for at in range(0, models[0].size, _BLOCK):
        size, start = min(_BLOCK, models[0].size - at), _U(at)
        for i in range(n):
            _load_wide(models[i], start, size, values[i])
            for j in range(i + 1):
                _add_products(lanes[i, j], values[i], values[j], size)
    products = np.empty((n, n))
    for i in range(n):
        for j in range(i + 1):
            products[i, j] = products[j, i] = lanes[i, j].sum()
    return products


@_jit
def _load_wide(model: Any, start: Any, size: Any, values: Any) -> None:
    for i in range(size):
        values[_U(i)] = np.float64(_widen(model[start + _U(i)]))


@_jit
def _add_products(lanes: Any, a: Any, b: Any, size: Any) -> None:
    for i in range(size):
        lanes[_U(i)] += a[_U(i)] * b[_U(i)]


# -- descent ----------------------------------------------------------------------------------


@_jit
def crossover(
    out: Any, target: Any, a: Any, b: Any, F: Any, key: Any, first: Any, last: Any
) -> None:
    """Where a draw is at most ``last`` target + (a − b)·F, else target; all float32."""
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _draw(pairs, key, _U((first + at) // 2), (size + 1) // 2)
        for i in range(size):
            j = start + _U(i)
            mutant = target[j] + (a[j] - b[j]) * F
            out[j] = _where(drawn[_U(i)] <= last, mutant, target[j])


@_jit
def particle(
    out: Any,
    x: Any,
    before: Any,
    pbest: Any,
    gbest: Any,
    w: Any,
    c1: Any,
    c2: Any,
    key1: Any,
    key2: Any,
    first: Any,
) -> None:
    """X + (w·(x − before) + c1·r1·(pbest − x) + c2·r2·(gbest − x)); all float32."""
    r1, r2 = np.empty(_BLOCK), np.empty(_BLOCK)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _uniforms(r1, key1, first + at, size)
        _uniforms(r2, key2, first + at, size)
        for i in range(size):
            j = start + _U(i)
            own = (pbest[j] - x[j]) * c1 * np.float32(r1[_U(i)])
            best = (gbest[j] - x[j]) * c2 * np.float32(r2[_U(i)])
            out[j] = x[j] + (((x[j] - before[j]) * w + own) + best)


@_jit
def _uniforms(out: Any, key: Any, first: Any, size: Any) -> None:
    """The random integers from the even index ``first`` on, divided by 2^32."""
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    _draw(pairs, key, _U(first // 2), (size + 1) // 2)
    for i in range(size):
        out[_U(i)] = np.float64(drawn[_U(i)]) / 4294967296.0


@_jit
def blend(out: Any, a: Any, b: Any, split: Any, coefficients: Any) -> None:
    """c₀·a + c₁·b before the split, c₂·a + c₃·b from it on; all float32."""
    for i in range(split):
        out[_U(i)] = a[_U(i)] * coefficients[0] + b[_U(i)] * coefficients[1]
    for i in range(split, out.size):
        out[_U(i)] = a[_U(i)] * coefficients[2] + b[_U(i)] * coefficients[3]


@_jit
def uniform(out: Any, key: Any, first: Any) -> None:
    """(u + 1/2) / 2^32 of the random integers from the even index ``first`` on; float64."""
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _draw(pairs, key, _U((first + at) // 2), (size + 1) // 2)
        for i in range(size):
            out[start + _U(i)] = (np.float64(drawn[_U(i)]) + 0.5) / 4294967296.0


@_jit
def add_noise(out: Any, noise: Any, std: Any) -> None:
    """Add the float64 noise, rounded to float32, times ``std``."""
    for i in range(out.size):
        out[_U(i)] += np.float32(noise[_U(i)]) * std


# -- task vectors -----------------------------------------------------------------------------


@_jit
def task_vectors(out: Any, base: Any, models: Any, weight: Any, scale: Any) -> None:
    """θ₀ + λ Σ w·τ."""
    origin, total = np.empty(_BLOCK, np.float32), np.empty(_BLOCK, np.float32)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _load(base, start, size, origin)
        for k in range(len(models)):
            _add_delta(total, models[k], start, size, origin, weight[k], k == 0)
        for i in range(size):
            total[_U(i)] = origin[_U(i)] + total[_U(i)] * scale
        _store(out, start, size, total)


@_jit
def _load(model: Any, start: Any, size: Any, values: Any) -> None:
    for i in range(size):
        values[_U(i)] = _widen(model[start + _U(i)])


@_jit
def _add_delta(
    total: Any, model: Any, start: Any, size: Any, origin: Any, weight: Any, first: Any
) -> None:
    if first:
        for i in range(size):
            total[_U(i)] = (_widen(model[start + _U(i)]) - origin[_U(i)]) * weight
    else:
        for i in range(size):
            total[_U(i)] += (_widen(model[start + _U(i)]) - origin[_U(i)]) * weight


# -- sparse task vectors ----------------------------------------------------------------------


@_jit
def trimmed(
    out: Any,
    base: Any,
    models: Any,
    weight: Any,
    scale: Any,
    first: Any,
    mode: Any,
    count: Any,
    threshold: Any,
    below: Any,
    last: Any,
) -> None:
    """Merges task vectors of which model k keeps what one cut keeps and another does not.

    ``threshold``, ``below`` and ``last`` are (2, models): row 0 of the cut that keeps, row 1 of
    the one that takes away. A cut keeps what is larger than ``threshold``; at flat indices before
    ``last`` also what equals it, so there ``below``, the next smaller number, is the threshold.
    ``first`` is the flat index of ``out[0]`` in its tensor.
    """
    entries = np.empty((len(models), _BLOCK), np.float32)
    origin = np.empty(_BLOCK, np.float32)
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _load(base, start, size, origin)
        for k in range(len(models)):
            begin = np.int64(0)
            while begin < size:  # one turn, unless a ``last`` is in this block
                end = np.int64(size)
                bounds = (_ZERO, _ZERO)
                for cut in range(2):
                    turn = last[cut, k] - (first + at)
                    bound = threshold[cut, k] if begin >= turn else below[cut, k]
                    bounds = (bound, bounds[1]) if cut == 0 else (bounds[0], bound)
                    if begin < turn < end:
                        end = turn
                _trim(entries[k], models[k], start, begin, end, origin, bounds, weight[k])
                begin = end
        _consensus(out, start, size, origin, entries, models, weight, scale, mode, count)


@_jit
def _trim(
    entry: Any,
    model: Any,
    start: Any,
    begin: Any,
    end: Any,
    origin: Any,
    bounds: Any,
    weight: Any,
) -> None:
    low, high = bounds
    for i in range(begin, end):
        delta = _widen(model[start + _U(i)]) - origin[_U(i)]
        inside = (abs(delta) > low) & (abs(delta) <= high)
        entry[_U(i)] = _where(inside, delta, _ZERO) * weight


@_jit
def dropped(
    out: Any,
    base: Any,
    models: Any,
    weight: Any,
    scale: Any,
    first: Any,
    mode: Any,
    count: Any,
    keys: Any,
    largest: Any,
    rescale: Any,
) -> None:
    """Merges task vectors of which model k keeps what draws at most ``largest[k]``.

    ``first``, the flat index of ``out[0]`` in its tensor, must be even.
    """
    entries = np.empty((len(models), _BLOCK), np.float32)
    origin = np.empty(_BLOCK, np.float32)
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)  # the low half is the first: little endian
    for at in range(0, out.size, _BLOCK):
        size, start = min(_BLOCK, out.size - at), _U(at)
        _load(base, start, size, origin)
        for k in range(len(models)):
            _draw(pairs, keys[k], _U((first + at) // 2), (size + 1) // 2)
            _drop(
                entries[k],
                models[k],
                start,
                size,
                origin,
                drawn,
                largest[k],
                rescale[k],
                weight[k],
            )
        _consensus(out, start, size, origin, entries, models, weight, scale, mode, count)


@_jit
def _drop(
    entry: Any,
    model: Any,
    start: Any,
    size: Any,
    origin: Any,
    drawn: Any,
    largest: Any,
    rescale: Any,
    weight: Any,
) -> None:
    for i in range(size):
        delta = _widen(model[start + _U(i)]) - origin[_U(i)]
        kept = _where(drawn[_U(i)] <= largest, delta, _ZERO) * rescale
        entry[_U(i)] = kept * weight


@_jit
def _consensus(
    out: Any,
    start: Any,
    size: Any,
    origin: Any,
    entries: Any,
    models: Any,
    weight: Any,
    scale: Any,
    mode: Any,
    count: Any,
) -> None:
    """θ₀ + λ times the sum, or TIES' disjoint merge, of the entries of one block."""
    like, n = out[0], len(models)  # the length of a tuple is a constant: inner loops unroll
    if mode == SUM:
        for i in range(size):
            total = entries[_U(0), _U(i)]
            for k in range(1, n):
                total += entries[_U(k), _U(i)]
            out[start + _U(i)] = _narrow(origin[_U(i)] + total * scale, like)
    elif count:
        for i in range(size):
            vote = _sign(entries[_U(0), _U(i)])
            for k in range(1, n):
                vote += _sign(entries[_U(k), _U(i)])
            total = mass = _ZERO
            for k in range(n):
                entry = entries[_U(k), _U(i)]
                agrees = _where(vote >= _ZERO, entry, -entry) > _ZERO
                total += _where(agrees, entry, _ZERO)
                mass += _where(agrees, weight[_U(k)], _ZERO)
            if mode == MEAN:
                total = _where(mass > _ZERO, total / mass, _ZERO)
            out[start + _U(i)] = _narrow(origin[_U(i)] + total * scale, like)
    elif mode == MEAN:
        for i in range(size):
            vote = entries[_U(0), _U(i)]
            for k in range(1, n):
                vote += entries[_U(k), _U(i)]
            total = mass = _ZERO
            for k in range(n):
                entry = entries[_U(k), _U(i)]
                agrees = _where(vote >= _ZERO, entry, -entry) > _ZERO
                total += _where(agrees, entry, _ZERO)
                mass += _where(agrees, weight[_U(k)], _ZERO)
            total = _where(mass > _ZERO, total / mass, _ZERO)
            out[start + _U(i)] = _narrow(origin[_U(i)] + total * scale, like)
    else:
        for i in range(size):
            vote = entries[_U(0), _U(i)]
            for k in range(1, n):
                vote += entries[_U(k), _U(i)]
            total = _ZERO
            for k in range(n):
                entry = entries[_U(k), _U(i)]
                agrees = _where(vote >= _ZERO, entry, -entry) > _ZERO
                total += _where(agrees, entry, _ZERO)
            out[start + _U(i)] = _narrow(origin[_U(i)] + total * scale, like)


@_jit
def _sign(x: Any) -> Any:
    return _where(x > _ZERO, np.float32(1), _where(x < _ZERO, np.float32(-1), _ZERO))


@_jit
def merge_entries(
    out: Any,
    base: Any,
    entries: Any,
    models: Any,
    weight: Any,
    scale: Any,
    mode: Any,
    count: Any,
) -> None:
    """Merges sparse task vectors that are there already, weighted."""
    origin = np.empty(out.size, np.float32)
    _load(base, _U(0), out.size, origin)
    _consensus(out, _U(0), out.size, origin, entries, models, weight, scale, mode, count)


# -- ranks in a row ---------------------------------------------------------------------------


@_jit
def row_keys(base: Any, model: Any, row: Any) -> Any:
    """Numbers that sort from the largest magnitude down, with the column in their lower half."""
    keys = np.empty(model.size, np.uint64)
    for begin in range(0, model.size, row):
        for i in range(row):
            place = _U(begin + i)
            bits = _bits(abs(_widen(model[place]) - _widen(base[place])))
            keys[place] = (_U(~bits) << _U(32)) | _U(i)
    return keys


@_jit
def pruned(
    entry: Any,
    ranked: Any,
    base: Any,
    model: Any,
    first: Any,
    key: Any,
    limits: Any,
    factors: Any,
    weight: Any,
) -> None:
    """Keeps an element if it draws less than its rank's limit; ``first`` is its flat index."""
    drawn, shift = _drawn(key, first, model.size)
    rows, row = ranked.shape
    for r in range(rows):
        for rank in range(row):
            i = r * row + np.int64(ranked[r, rank] & _LOW)
            delta = _widen(model[i]) - _widen(base[i])
            kept = _where(_U(drawn[i + shift]) < limits[rank], delta, _ZERO)
            entry[i] = (kept * factors[rank]) * weight


@_jit
def kept_by_rank(
    ranked: Any, base: Any, model: Any, first: Any, key: Any, limits: Any, count: Any
) -> Any:
    """Adds up how many are kept of each rank; returns the L1 norms of those and of all."""
    drawn, shift = _drawn(key, first, model.size)
    rows, row = ranked.shape
    norm = whole = 0.0
    for r in range(rows):
        for rank in range(row):
            i = r * row + np.int64(ranked[r, rank] & _LOW)
            size = np.float64(abs(_widen(model[i]) - _widen(base[i])))
            whole += size
            if _U(drawn[i + shift]) < limits[rank]:
                count[rank] += 1
                norm += size
    return norm, whole


_LOW = _U(0xFFFFFFFF)


@_jit
def _drawn(key: Any, first: Any, size: Any) -> Any:
    """The draws of a range of elements, and where in them it begins."""
    shift = first % 2
    pairs = np.empty((size + shift + 1) // 2, np.uint64)
    _draw(pairs, key, _U(first // 2), pairs.size)
    return pairs.view(np.uint32), shift


# -- random masks -----------------------------------------------------------------------------

_GOLDEN = _U(0x9E3779B97F4A7C15)
_MIX1 = _U(0xBF58476D1CE4E5B9)
_MIX2 = _U(0x94D049BB133111EB)


@_jit
def _draw(pairs: Any, key: Any, start: Any, size: Any) -> None:
    """SplitMix64's outputs from ``start`` on; each is two 32-bit draws (see ``_random``)."""
    for i in range(size):
        z = key + (start + _U(i) + _U(1)) * _GOLDEN
        z = (z ^ (z >> _U(30))) * _MIX1
        z = (z ^ (z >> _U(27))) * _MIX2
        pairs[_U(i)] = z ^ (z >> _U(31))


@_jit
def kept(key: Any, n: Any, largest: Any) -> Any:
    """How many of the first ``n`` draws are at most ``largest``."""
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    total = np.int64(0)
    for at in range(0, n, _BLOCK):
        size = min(_BLOCK, n - at)
        _draw(pairs, key, _U(at // 2), (size + 1) // 2)
        total += _at_most(drawn, size, largest)
    return total


@_jit
def norm(base: Any, model: Any, key: Any, largest: Any) -> Any:
    """L1 norm of what draws at most ``largest`` in a task vector, summed as in ``gram``."""
    pairs = np.empty(_BLOCK // 2, np.uint64)
    drawn = pairs.view(np.uint32)
    lanes = np.zeros(_BLOCK)
    for at in range(0, model.size, _BLOCK):
        size = min(_BLOCK, model.size - at)
        _draw(pairs, key, _U(at // 2), (size + 1) // 2)
        _add_kept(lanes, base, model, _U(at), size, drawn, largest)
    return lanes.sum()


@_jit
def _add_kept(
    lanes: Any, base: Any, model: Any, start: Any, size: Any, drawn: Any, largest: Any
) -> None:
    for i in range(size):
        place = start + _U(i)
        delta = abs(_widen(model[place]) - _widen(base[place]))
        lanes[_U(i)] += np.float64(_where(drawn[_U(i)] <= largest, delta, _ZERO))


@_jit
def _at_most(drawn: Any, size: Any, largest: Any) -> Any:
    found = np.uint32(0)
    for i in range(size):
        found += np.uint32(drawn[_U(i)] <= largest)
    return np.int64(found)


# -- where to trim ----------------------------------------------------------------------------

BIN = 13
"""Bits of a magnitude below those that the histogram distinguishes."""


@_jit
def histogram(base: Any, model: Any, table: Any) -> None:
    """Counts the magnitudes of a task vector by the upper 18 bits of their float32.

    Each bin has two places in ``table``: of the number that ends in zeros, and of all others. The
    differences of bfloat16 numbers are on such a grid for the most part: three per cent of them
    may be one and the same number, which is thus told from its neighbours.
    """
    magnitude = np.empty(_BLOCK, np.uint32)
    for at in range(0, model.size, _BLOCK):
        size = min(_BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, _U(at), size)
        for i in range(size):
            bits = magnitude[_U(i)]
            others = ((bits & _BELOW) + _BELOW) >> np.uint32(BIN)  # 0 on the grid, else 1
            magnitude[_U(i)] = (bits >> np.uint32(BIN - 1) & _EVEN) | others
        for i in range(size):
            table[magnitude[_U(i)]] += np.uint32(1)


@_jit
def used(table: Any, bins: Any, counts: Any) -> Any:
    """Lists the places of a table that are not zero, and what is there; returns how many."""
    total = 0
    for begin in range(0, table.size, _SCAN):
        some = np.uint32(0)
        for i in range(_SCAN):
            some |= table[_U(begin + i)]
        if some != _NONE:
            for i in range(begin, begin + _SCAN):
                if table[_U(i)] != _NONE and total < bins.size:
                    bins[total], counts[total] = i, table[_U(i)]
                    total += 1
    return total


_NONE = np.uint32(0)
_SCAN = 64
_EVEN = np.uint32(0xFFFFFFFE)
_BELOW = np.uint32((1 << BIN) - 1)


@_jit
def _magnitudes(magnitude: Any, base: Any, model: Any, start: Any, size: Any) -> None:
    for i in range(size):
        place = start + _U(i)
        magnitude[_U(i)] = _bits(abs(_widen(model[place]) - _widen(base[place])))


@_jit
def inside(base: Any, model: Any, low: Any, width: Any, found: Any) -> None:
    """Collects, in their order, the magnitudes whose bits are in [low, low + width).

    ``found`` must have room for one more than there are.
    """
    magnitude = np.empty(_BLOCK, np.uint32)
    total = np.int64(0)
    for at in range(0, model.size, _BLOCK):
        size = min(_BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, _U(at), size)
        for begin in range(0, size, _SCAN):
            end = min(begin + _SCAN, size)
            if end - begin < _SCAN or _any_inside(magnitude, _U(begin), low, width):
                for i in range(begin, end):
                    found[total] = magnitude[_U(i)]
                    total += np.int64(magnitude[_U(i)] - low < width)


@_jit
def _any_inside(magnitude: Any, begin: Any, low: Any, width: Any) -> Any:
    found = np.uint32(0)
    for i in range(_SCAN):
        found += np.uint32(magnitude[begin + _U(i)] - low < width)
    return found > _NONE


@_jit
def place_of(base: Any, model: Any, value: Any, nth: Any) -> Any:
    """Flat index of the ``nth`` element (from 0) whose magnitude has the bits ``value``."""
    magnitude = np.empty(_BLOCK, np.uint32)
    left = nth
    for at in range(0, model.size, _BLOCK):
        size = min(_BLOCK, model.size - at)
        _magnitudes(magnitude, base, model, _U(at), size)
        here = _equal(magnitude, size, value)
        if left < here:
            for i in range(size):
                if magnitude[_U(i)] == value:
                    if left == 0:
                        return at + i
                    left -= 1
        left -= here
    return model.size


@_jit
def _equal(magnitude: Any, size: Any, value: Any) -> Any:
    found = np.uint32(0)
    for i in range(size):
        found += np.uint32(magnitude[_U(i)] == value)
    return np.int64(found)
