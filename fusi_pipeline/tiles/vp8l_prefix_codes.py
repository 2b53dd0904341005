"""Prefix codes: made from counts, canonical, and written as the lengths of their codes.

Source: RFC 9649, section 3.7.2.1.
"""

# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from numba import int64

from fusi_pipeline.tiles.kernel_types import I64, INT, U8, U16, U32, inline
from fusi_pipeline.tiles.vp8l_alphabets import ALPHA, BLUE, DISTANCE, GROUP, RED
from fusi_pipeline.tiles.vp8l_bits import put_bits

LONGEST_CODE = 15
"""Bits of the longest code that the format can say."""
_LONGEST_LENGTH_CODE = 7
"""Likewise of the code of lengths."""
_LENGTH_ORDER = (17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
"""In which order the lengths of the code of lengths are stored (section 3.7.2.1.2)."""
_SMALL = 19
"""Symbols of the code of lengths."""
_FIRST_LENGTH = 8
"""What a repetition repeats before any length that is not 0."""
_LEAVES = 4096
"""Room for the symbols of one alphabet in `work`, which is laid out as _LEAVES * 8 numbers."""


@inline
def _sift(work, start, end):
    """Let a number sink in a heap whose largest number is first."""
    root = start
    while 2 * root + 1 < end:
        child = 2 * root + 1
        if child + 1 < end and work[child] < work[child + 1]:
            child += 1
        if work[root] >= work[child]:
            return
        work[root], work[child] = work[child], work[root]
        root = child


@inline
def _sort(work, count):
    """Sort the first `count` numbers of `work` in rising order, by a heap: numba's sort can raise."""
    for start in range(count // 2 - 1, -1, -1):
        _sift(work, start, count)
    for end in range(count - 1, 0, -1):
        work[0], work[end] = work[end], work[0]
        _sift(work, 0, end)


@inline
def _tree_depths(work, leaves, per_length):
    """Count in `per_length` how many leaves of a Huffman tree lie at each depth; leaves are sorted in `work`.

    `work` holds weights from 2 * _LEAVES on, parents from 4 * _LEAVES on and depths from 6 * _LEAVES on.
    """
    weight, parent, depth = 2 * _LEAVES, 4 * _LEAVES, 6 * _LEAVES
    for i in range(leaves):
        work[weight + i] = work[i] >> 12
    leaf, inner = 0, leaves
    for node in range(leaves, 2 * leaves - 1):
        total = 0
        for _ in range(2):
            if leaf < leaves and (inner >= node or work[weight + leaf] <= work[weight + inner]):
                child = leaf
                leaf += 1
            else:
                child = inner
                inner += 1
            total += work[weight + child]
            work[parent + child] = node
        work[weight + node] = total
    for i in range(64):
        work[per_length + i] = 0
    root = 2 * leaves - 2
    work[depth + root] = 0
    for node in range(root - 1, -1, -1):
        work[depth + node] = work[depth + work[parent + node]] + 1
        if node < leaves:
            work[per_length + work[depth + node]] += 1


@inline
def _limit(work, per_length, longest):
    """Shorten the codes that are too long, each at the price of the least likely of the shorter ones.

    Source: ITU-T T.81, section K.2.
    """
    for length in range(63, longest, -1):
        while work[per_length + length] > 0:
            shorter = length - 2
            while work[per_length + shorter] == 0:
                shorter -= 1
            work[per_length + length] -= 2
            work[per_length + length - 1] += 1
            work[per_length + shorter + 1] += 2
            work[per_length + shorter] -= 1


@inline
def _lengths(histogram, at, size, longest, work, lengths):
    """Fill `lengths` with those of the best prefix code; return how many symbols have one.

    A symbol that is alone has length 1 here, and takes no bits.
    """
    used = 0
    for symbol in range(size):
        lengths[symbol] = 0
        if histogram[at + symbol] != 0:
            work[used] = (int64(histogram[at + symbol]) << 12) | symbol
            used += 1
    if used < 2:
        if used == 1:
            lengths[work[0] & 4095] = 1
        return used
    _sort(work, used)
    per_length = _LEAVES
    _tree_depths(work, used, per_length)
    _limit(work, per_length, longest)
    length = 63
    for i in range(used):
        while work[per_length + length] == 0:
            length -= 1
        lengths[work[i] & 4095] = length
        work[per_length + length] -= 1
    return used


@inline
def _reversed(code, length):
    """Return the bits of a code in the order in which they are written, the first one lowest."""
    result = 0
    for _ in range(length):
        result = (result << 1) | (code & 1)
        code >>= 1
    return result


@inline
def _canonical(lengths, size, used, work, at, codes):
    """Fill `codes` from `at` on with length << 16 | bits in the order they are written."""
    number, following = _LEAVES, _LEAVES + 32
    for i in range(32):
        work[number + i] = 0
    for symbol in range(size):
        work[number + lengths[symbol]] += 1
    work[number] = 0
    code = 0
    for length in range(1, LONGEST_CODE + 1):
        code = (code + work[number + length - 1]) << 1
        work[following + length] = code
    for symbol in range(size):
        length = int64(lengths[symbol])
        codes[at + symbol] = 0
        if length and used > 1:
            codes[at + symbol] = (length << 16) | _reversed(work[following + length], length)
            work[following + length] += 1


@inline
def _run_tokens(lengths, size, tokens):
    """Fill `tokens` with token << 8 | extra bits of a row of lengths; return how many there are."""
    count = 0
    i = 0
    before = _FIRST_LENGTH
    while i < size:
        value = int64(lengths[i])
        run = 1
        while i + run < size and lengths[i + run] == value:
            run += 1
        i += run
        if value != 0 and value != before:
            tokens[count] = value << 8
            count += 1
            run -= 1
            before = value
        while run > 0:
            if run < 3:
                tokens[count] = value << 8
                run -= 1
            elif value != 0:
                part = min(run, 6)
                tokens[count] = (16 << 8) | (part - 3)
                run -= part
            elif run < 11:
                tokens[count] = (17 << 8) | (run - 3)
                run = 0
            else:
                part = min(run, 138)
                tokens[count] = (18 << 8) | (part - 11)
                run -= part
            count += 1
    return count


@inline
def _put_simple(state, out, used, lengths, size):
    """Write a code of at most two symbols, each below 256 (section 3.7.2.1.1)."""
    first = 0
    while first < size - 1 and lengths[first] == 0:
        first += 1
    if used == 0:
        first = 0
    put_bits(state, out, 1, 1)
    put_bits(state, out, 1 if used == 2 else 0, 1)
    if first < 2:
        put_bits(state, out, 0, 1)
        put_bits(state, out, first, 1)
    else:
        put_bits(state, out, 1, 1)
        put_bits(state, out, first, 8)
    if used == 2:
        second = first + 1
        while lengths[second] == 0:
            second += 1
        put_bits(state, out, second, 8)


@inline
def _put_lengths(state, out, lengths, size, work, tokens, small, short):
    """Write the lengths of a code, in a code of their own (section 3.7.2.1.2)."""
    count = _run_tokens(lengths, size, tokens)
    for i in range(_SMALL):
        small[i] = 0
    for i in range(count):
        small[tokens[i] >> 8] += 1
    used = _lengths(small, 0, _SMALL, _LONGEST_LENGTH_CODE, work, short)
    _canonical(short, _SMALL, used, work, _SMALL, small)
    stored = _SMALL
    while stored > 4 and short[_LENGTH_ORDER[stored - 1]] == 0:
        stored -= 1
    put_bits(state, out, 0, 1)
    put_bits(state, out, stored - 4, 4)
    for i in range(stored):
        put_bits(state, out, int64(short[_LENGTH_ORDER[i]]), 3)
    put_bits(state, out, 0, 1)
    for i in range(count):
        token = int64(tokens[i]) >> 8
        code = int64(small[_SMALL + token])
        put_bits(state, out, code & 0xFFFF, code >> 16)
        if token >= 16:
            put_bits(state, out, int64(tokens[i]) & 255, 2 if token == 16 else 3 if token == 17 else 7)


@inline
def _one_code(state, out, histogram, at, size, work, lengths, tokens, small, short, table):
    """Make and write one code; return how many bits its symbols take in it."""
    used = _lengths(histogram, at, size, LONGEST_CODE, work, lengths)
    _canonical(lengths, size, used, work, at, table)
    simple = used <= 2
    if simple:
        for symbol in range(256, size):
            if lengths[symbol]:
                simple = False
    if simple:
        _put_simple(state, out, used, lengths, size)
    else:
        _put_lengths(state, out, lengths, size, work, tokens, small, short)
    total = 0
    for i in range(at, at + size):
        total += int64(histogram[i]) * (int64(table[i]) >> 16)
    return total


def codes(state, out, histogram, group_count, greens, work, lengths, tokens, small, short, table):
    """Make the codes of each group from its histogram and write their lengths.

    Return how many bits the symbols take in these codes, besides the extra bits of copies.
    `table` gets length << 16 | code for each number of `histogram`. `work` holds 8 * 4096
    numbers, `lengths` and `tokens` one for each green symbol, `small` 38, `short` 19.
    """
    total = 0
    for group in range(group_count):
        at = group * GROUP
        total += _one_code(state, out, histogram, at, greens, work, lengths, tokens, small, short, table)
        for part, end in ((RED, BLUE), (BLUE, ALPHA), (ALPHA, DISTANCE), (DISTANCE, GROUP)):
            total += _one_code(
                state, out, histogram, at + part, end - part, work, lengths, tokens, small, short, table
            )
    return total


SIGNATURES = {
    "codes": INT(I64, U32, U32, INT, INT, I64, U8, U16, U32, U8, U32),
}
"""What `native` compiles, with the types of its arguments."""
