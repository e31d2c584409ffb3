"""The compiled loops of attribution, all in one file: numba's cache does not see a change in another one.

Two levels of windows are posted for each file and looked up for each position of a query.

*Solid* windows: 16 bytes of a text without its blanks, of which every 9th is posted, so that a shared run of
16 + 9 - 1 = 24 holds a posted one. A byte of context goes with each: four bits of a hash of the four bytes before it
and four of those after. A run of 24 agrees with at least one side: what agrees with neither needs no look at the text.

*Renamed* windows: 20 lexemes without comments, of which every 13th is posted (so 32 hold one), where a name counts as
the distance to its last use in the window (Baker's parameterized strings, 1993): renaming consistently changes nothing.
"""

from typing import Any

import numba
import numpy as np

SOLID, SOLID_STRIDE = 16, 9
RENAMED, RENAMED_STRIDE = 20, 13
BUCKET = 8  # postings of a bucket of the directory, about
TAG_BITS = 16
SIDE = 4  # bytes of context on each side
PLACES = 4  # of one window in one file that are looked at
NEAR = 400  # bytes on each side that are read first for a renamed match
FURTHEST = 4000  # lexemes that a renamed match grows, each way

BASE = np.uint64(0x9E3779B97F4A7C15)
FNV_START, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
BLANK = np.zeros(256, np.uint8)
BLANK[np.frombuffer(b" \t\r\n\f\v", np.uint8)] = 1
WORD = np.zeros(256, np.uint8)
WORD[np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_", np.uint8)] = 1
WORD[0x80:] = 1
SLASHES, HASH, DASHES = 1, 2, 4  # styles of comments, as bits

# columns of a match: query bytes [A, B), file, text bytes [C, D), units (solid bytes or lexemes), and what is left of
# sameness: for solid 1 where blanks agree too; for renamed how many lexemes differ
A, B, FILE, C, D, UNITS, SAME, NEXT = range(8)
WIDTH = 8

_compiled = numba.njit(cache=True, nogil=True)


@_compiled
def mixed(value: Any) -> Any:
    """A uint64 whose every bit depends on all bits of another (MurmurHash3's finalizer)."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ (value >> np.uint64(33))


@_compiled
def _side(solid: Any, first: int) -> Any:
    h = np.uint64(0)
    for i in range(first, first + SIDE):
        h = h * BASE + np.uint64(solid[i])
    return np.uint8(mixed(h) & np.uint64(15))


@_compiled
def solid_windows(
    data: Any, start: int, end: int, stride: int, solid: Any, at: Any, keys: Any, places: Any, context: Any, sides: Any,
    out: int,
) -> int:  # fmt: skip
    """Windows of the non-blank bytes of data[start:end], every `stride`-th, from row `out` on; returns the next row.

    `solid` (uint8) and `at` (int64) are room for end - start elements; `sides` has 1 for a context before, 2 for one
    after.
    """
    n = 0
    for i in range(start, end):
        if not BLANK[data[i]]:
            solid[n] = data[i]
            at[n] = i
            n += 1
    leaving = np.uint64(1)
    for _ in range(SOLID):
        leaving *= BASE
    h = np.uint64(0)
    for i in range(n):
        h = h * BASE + np.uint64(solid[i]) + np.uint64(1)
        if i >= SOLID:
            h -= (np.uint64(solid[i - SOLID]) + np.uint64(1)) * leaving
        first = i - SOLID + 1
        if first < 0 or first % stride:
            continue
        keys[out], places[out] = mixed(h), at[first]
        c, s = np.uint8(0), np.uint8(0)
        if first >= SIDE:
            c |= _side(solid, first - SIDE)
            s |= np.uint8(1)
        if i + SIDE < n:
            c |= _side(solid, i + 1) << np.uint8(4)
            s |= np.uint8(2)
        context[out], sides[out] = c, s
        out += 1
    return out


@_compiled
def post_solid(data: Any, starts: Any, keys: Any, places: Any, context: Any) -> int:
    """Postings of every file data[starts[f]:starts[f + 1]]; returns how many."""
    longest = 0
    for f in range(len(starts) - 1):
        longest = max(longest, starts[f + 1] - starts[f])
    solid, at = np.empty(longest, np.uint8), np.empty(longest, np.int64)
    sides, out = np.empty(len(keys), np.uint8), 0
    for f in range(len(starts) - 1):
        out = solid_windows(data, starts[f], starts[f + 1], SOLID_STRIDE, solid, at, keys, places, context, sides, out)
    return out


@_compiled
def lexemes(data: Any, start: int, end: int, style: int, names: Any, values: Any, at: Any, ends: Any) -> int:
    """Words and single other bytes of data[start:end], without blanks and comments of that style; returns how many.

    An odd value is a constant (a keyword of the hash table `names`, a number, punctuation), an even one a name.
    """
    n, i, mask = 0, start, np.uint64(len(names) - 1)
    while i < end:
        c = data[i]
        if BLANK[c]:
            i += 1
            continue
        if style & SLASHES and c == 47 and i + 1 < end and (data[i + 1] == 47 or data[i + 1] == 42):
            block = data[i + 1] == 42
            i += 2
            if block:
                while i + 1 < end and not (data[i] == 42 and data[i + 1] == 47):
                    i += 1
                i = min(i + 2, end)
            else:
                while i < end and data[i] != 10:
                    i += 1
            continue
        if (style & HASH and c == 35) or (style & DASHES and c == 45 and i + 1 < end and data[i + 1] == 45):
            while i < end and data[i] != 10:
                i += 1
            continue
        at[n] = i
        if WORD[c]:
            h = FNV_START
            while i < end and WORD[data[i]]:
                h = (h ^ np.uint64(data[i])) * FNV_PRIME
                i += 1
            h = mixed(h)
            constant = 48 <= c <= 57
            slot = h & mask
            while not constant and names[slot]:
                constant = names[slot] == h
                slot = (slot + np.uint64(1)) & mask
            values[n] = h | np.uint64(1) if constant else h & ~np.uint64(1)
        else:
            values[n] = np.uint64(c) * np.uint64(2) + np.uint64(1)
            i += 1
        ends[n] = i
        n += 1
    return n


@_compiled
def _last_uses(values: Any, n: int, table: Any, table_at: Any, back: Any) -> None:
    """back[i] is how far before i its name was used last; 0 for constants and first uses."""
    mask = np.uint64(len(table) - 1)
    table_at[:] = -1
    for i in range(n):
        v, back[i] = values[i], 0
        if v & np.uint64(1):
            continue
        slot = mixed(v) & mask
        while table_at[slot] >= 0 and table[slot] != v:
            slot = (slot + np.uint64(1)) & mask
        if table_at[slot] >= 0:
            back[i] = i - table_at[slot]
        table[slot], table_at[slot] = v, i


@_compiled
def _room(n: int) -> int:
    size = 1 << 10
    while size < 2 * n:
        size *= 2
    return size


@_compiled
def renamed_windows(values: Any, n: int, stride: int, at: Any, keys: Any, places: Any, out: int) -> int:
    """Windows of lexemes with names as distances, every `stride`-th, from row `out` on; returns the next row."""
    size = _room(n)
    back = np.empty(n, np.int64)
    _last_uses(values, n, np.empty(size, np.uint64), np.empty(size, np.int64), back)
    for first in range(0, n - RENAMED + 1, stride):
        h = np.uint64(0)
        for i in range(first, first + RENAMED):
            v = values[i]
            if not v & np.uint64(1):
                inside = 0 < back[i] <= i - first
                v = np.uint64(back[i]) * np.uint64(4) + np.uint64(2) if inside else np.uint64(2)
            h = h * BASE + mixed(v)
        keys[out], places[out] = mixed(h), at[first]
        out += 1
    return out


@_compiled
def post_renamed(data: Any, starts: Any, styles: Any, names: Any, keys: Any, places: Any) -> int:
    """Postings of every file, whose comments are of styles[f]; returns how many."""
    longest = 0
    for f in range(len(starts) - 1):
        longest = max(longest, starts[f + 1] - starts[f])
    values, at, ends = np.empty(longest, np.uint64), np.empty(longest, np.int64), np.empty(longest, np.int64)
    out = 0
    for f in range(len(starts) - 1):
        n = lexemes(data, starts[f], starts[f + 1], styles[f], names, values, at, ends)
        out = renamed_windows(values, n, RENAMED_STRIDE, at, keys, places, out)
    return out


@_compiled
def posted(keys: Any, n: int, bits: int, directory: Any, tags: Any, first: Any, stop: Any) -> None:
    """The postings [first[i], stop[i]) that have the tag of each of the first `n` keys."""
    for i in range(n):
        bucket = keys[i] >> np.uint64(64 - bits)
        tag = np.uint16((keys[i] >> np.uint64(64 - TAG_BITS - bits)) & np.uint64(0xFFFF))
        lo, hi = np.int64(directory[bucket]), np.int64(directory[bucket + np.uint64(1)])
        if hi - lo > 64:  # many copies of one window: halve
            top = hi
            while lo < top:
                middle = (lo + top) // 2
                if tags[middle] < tag:
                    lo = middle + 1
                else:
                    top = middle
            end = lo
            top = hi
            while end < top:
                middle = (end + top) // 2
                if tags[middle] <= tag:
                    end = middle + 1
                else:
                    top = middle
        else:
            while lo < hi and tags[lo] < tag:
                lo += 1
            end = lo
            while end < hi and tags[end] == tag:
                end += 1
        first[i], stop[i] = lo, end


@_compiled
def ranked(keys: Any, n: int, bits: int, directory: Any, tags: Any, first: Any, stop: Any) -> Any:
    """`posted`, and the windows in the order of how rare they are; windows of one list stand beside each other."""
    posted(keys, n, bits, directory, tags, first, stop)
    return np.argsort(((stop[:n] - first[:n]) << 36) + first[:n])


@_compiled
def file_of(starts: Any, place: Any) -> int:
    """The file that holds a byte of the text."""
    lo, hi = 0, len(starts) - 1
    while hi - lo > 1:
        middle = (lo + hi) // 2
        if starts[middle] <= place:
            lo = middle
        else:
            hi = middle
    return lo


@_compiled
def _grown(q: Any, qa: Any, text: Any, ta: Any, first: Any, stop: Any) -> Any:
    """Grow a match at q[qa], text[ta] both ways within text[first:stop], blanks left out on both sides.

    Returns query [a, b), text [c, d), solid bytes, and whether the blanks agree as well.
    """
    i, j, n, same = qa, ta, 0, True
    b, d = qa, ta
    while True:
        si, sj = i, j
        while i < len(q) and BLANK[q[i]]:
            i += 1
        while j < stop and BLANK[text[j]]:
            j += 1
        if i >= len(q) or j >= stop or q[i] != text[j]:
            break
        if n and same:
            same = i - si == j - sj
            for z in range(i - si if same else 0):
                same = same and q[si + z] == text[sj + z]
        i += 1
        j += 1
        n += 1
        b, d = i, j
    i, j = qa - 1, ta - 1
    a, c = qa, ta
    while True:
        si, sj = i, j
        while i >= 0 and BLANK[q[i]]:
            i -= 1
        while j >= first and BLANK[text[j]]:
            j -= 1
        if i < 0 or j < first or q[i] != text[j]:
            break
        if same:
            same = si - i == sj - j
            for z in range(si - i if same else 0):
                same = same and q[si - z] == text[sj - z]
        a, c = i, j
        n += 1
        i -= 1
        j -= 1
    # equal blanks around it belong to it
    while a > 0 and c > first and BLANK[q[a - 1]] and q[a - 1] == text[c - 1]:
        a -= 1
        c -= 1
    while b < len(q) and d < stop and BLANK[q[b]] and q[b] == text[d]:
        b += 1
        d += 1
    return a, b, c, d, n, same


@_compiled
def match_solid(
    q: Any, places: Any, context: Any, sides: Any, first: Any, stop: Any, order: Any, fewest: int, most: int,
    positions: Any, contexts: Any, text: Any, starts: Any, hidden: Any,
    units: int, budget: Any, found: Any, heads: Any, count: int,
) -> int:  # fmt: skip
    """Grow the postings of the query's windows that have `fewest` to `most` of them, rare windows first.

    Of `found`, `count` rows are filled, by windows that are rarer; returns how many are then. `heads` (int64 [4096]) is
    the latest match of a file, by a hash of it; the others follow by NEXT. `hidden` has 1 for files that are
    left out; matches have at least `units` solid bytes. `budget` (int64 [3]) is
    lowered: verifications, bytes that are compared, postings that are looked at; one below zero ended the work.
    """
    last, again = -1, 0
    for at in range(len(order)):
        i = order[at]
        if stop[i] - first[i] < fewest:
            continue
        if stop[i] - first[i] > most:
            break
        again = again + 1 if first[i] == last else 0
        last = first[i]
        if again >= SOLID_STRIDE:  # a window again and again: so many of its places meet every phase of what is posted
            continue
        before, run = -1, 0
        for j in range(first[i], stop[i]):
            budget[2] -= 1
            if budget[2] < 0:
                return count
            agrees = (sides[i] & 1 and (contexts[j] ^ context[i]) & 15 == 0) or (
                sides[i] & 2 and (contexts[j] ^ context[i]) >> 4 == 0
            )
            if not agrees:
                continue
            place = np.int64(positions[j])
            f = file_of(starts, place)
            run = run + 1 if f == before else 0
            before = f
            if hidden[f] or run >= PLACES:
                continue
            head, known = heads[f & 4095], False
            z = head
            while z >= 0 and not known:
                known = (
                    found[z, FILE] == f
                    and found[z, A] <= places[i] < found[z, B]
                    and found[z, C] <= place < found[z, D]
                )
                z = found[z, NEXT]
            if known:
                continue
            budget[0] -= 1
            if budget[0] < 0:
                return count
            a, b, c, d, solid, same = _grown(q, places[i], text, place, starts[f], starts[f + 1])
            budget[1] -= d - c
            if solid >= units:
                if count == len(found):
                    budget[0] = -1
                    return count
                found[count, A], found[count, B], found[count, FILE] = a, b, f
                found[count, C], found[count, D], found[count, UNITS] = c, d, solid
                found[count, SAME], found[count, NEXT] = same, head
                heads[f & 4095] = count
                count += 1
            if budget[1] < 0:
                return count
    return count


@_compiled
def _same(one: Any, other: Any, forth: Any, forth_to: Any, back: Any, back_to: Any, stamps: Any, stamp: int) -> int:
    """0 where two lexemes cannot be each other's; 1 where they are equal, 2 where one is the other's new name.

    The tables hold the bijection of names so far; `stamps` [2, size] tell which of their slots are of this match.
    """
    if one & np.uint64(1) or other & np.uint64(1):
        return 1 if one == other else 0
    mask = np.uint64(len(forth) - 1)
    s = (one >> np.uint64(3)) & mask
    while stamps[0, s] == stamp and forth[s] != one:
        s = (s + np.uint64(1)) & mask
    r = (other >> np.uint64(3)) & mask
    while stamps[1, r] == stamp and back[r] != other:
        r = (r + np.uint64(1)) & mask
    known, taken = stamps[0, s] == stamp, stamps[1, r] == stamp
    if known or taken:
        if not (known and taken and forth_to[s] == other and back_to[r] == one):
            return 0
    else:
        stamps[0, s] = stamps[1, r] = stamp
        forth[s], forth_to[s], back[r], back_to[r] = one, other, other, one
    return 1 if one == other else 2


@_compiled
def match_renamed(
    values: Any, at: Any, ends: Any, count: int, first: Any, stop: Any, order: Any, fewest: int, most: int,
    positions: Any, text: Any, starts: Any, styles: Any, names: Any, hidden: Any,
    units: int, budget: Any, found: Any, lines: Any, total: int,
) -> int:  # fmt: skip
    """The same for windows of the query's `count` lexemes; window i begins with lexeme i.

    `lines` (int64 [matches, 2]) are the lexemes of the query that each match covers. SAME is how many lexemes
    are renamed. Matches have at least `units` lexemes.
    """
    size = 4 * FURTHEST
    room = 1
    while room < size:
        room *= 2
    forth, forth_to = np.empty(room, np.uint64), np.empty(room, np.uint64)
    back, back_to = np.empty(room, np.uint64), np.empty(room, np.uint64)
    stamps, stamp = np.zeros((2, room), np.int64), 0
    last, again = -1, 0
    span = ends[count - 1] - at[0] if count else 0
    # what a match can reach into the text: names and comments may be longer there
    reach = min(3 * span + 1024, 1 << 16)
    tv, ta, te = np.empty(2 * reach, np.uint64), np.empty(2 * reach, np.int64), np.empty(2 * reach, np.int64)
    for index in range(len(order)):
        i = order[index]
        if stop[i] - first[i] < fewest:
            continue
        if stop[i] - first[i] > most:
            break
        again = again + 1 if first[i] == last else 0
        last = first[i]
        if again >= RENAMED_STRIDE:
            continue
        before, run = -1, 0
        for j in range(first[i], stop[i]):
            budget[2] -= 1
            if budget[2] < 0:
                return total
            place = np.int64(positions[j])
            f = file_of(starts, place)
            run = run + 1 if f == before else 0
            before = f
            if hidden[f] or run >= PLACES:
                continue
            known = False
            for z in range(total):
                if found[z, FILE] == f and lines[z, 0] <= i < lines[z, 1] and found[z, C] <= place < found[z, D]:
                    known = True
                    break
            if known:
                continue
            budget[0] -= 1
            if budget[0] < 0:
                return total
            a, b, c, d, changed = i, i, np.int64(0), np.int64(0), 0
            near = min(reach, NEAR)
            while True:
                lo = max(starts[f], place - near)
                while starts[f] < lo < place and text[lo - 1] != 10:
                    lo += 1  # a lexer that begins within a line may begin within a comment
                hi = min(starts[f + 1], place + near)
                budget[1] -= hi - lo
                if budget[1] < 0:
                    return total
                n = lexemes(text, lo, hi, styles[f], names, tv, ta, te)
                p = np.searchsorted(ta[:n], place)
                if p >= n or ta[p] != place:
                    break
                stamp += 1
                qi, ti, changed = i, p, 0
                while qi < count and ti < n and qi - i < FURTHEST:
                    s = _same(values[qi], tv[ti], forth, forth_to, back, back_to, stamps, stamp)
                    if s == 0:
                        break
                    changed += s == 2
                    qi += 1
                    ti += 1
                b, d = qi, ti
                qi, ti = i - 1, p - 1
                while qi >= 0 and ti >= 0 and i - qi < FURTHEST:
                    s = _same(values[qi], tv[ti], forth, forth_to, back, back_to, stamps, stamp)
                    if s == 0:
                        break
                    changed += s == 2
                    qi -= 1
                    ti -= 1
                a, c = qi + 1, ti + 1
                # the ends of what was read may be no ends of lexemes: read further where the match comes there
                ended = (d < n - 1 or hi == starts[f + 1] or b == count) and (c > 1 or lo == starts[f] or a == 0)
                if ended or near == reach:
                    break
                near = min(reach, 8 * near)
            if b - a >= units:
                if total == len(found):
                    budget[0] = -1
                    return total
                found[total, A], found[total, B], found[total, FILE] = at[a], ends[b - 1], f
                found[total, C], found[total, D], found[total, UNITS] = ta[c], te[d - 1], b - a
                found[total, SAME] = changed
                lines[total, 0], lines[total, 1] = a, b
                total += 1
    return total


@_compiled
def unit_offsets(q: Any, out: Any, wide: int) -> None:
    """Offsets of every byte boundary of UTF-8 text in code points; in UTF-16 units where `wide` is 2."""
    n = 0
    for i in range(len(q)):
        out[i] = n
        c = q[i]
        if c < 0x80 or c >= 0xC0:
            n += wide if c >= 0xF0 else 1
    out[len(q)] = n
