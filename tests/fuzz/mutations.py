"""Changes to good files: of any bytes, of a format's own claims, and of the values inside JSON and TOML."""

from __future__ import annotations

import copy
import gzip
import io
import json
import re
import struct
import zipfile
from collections.abc import Sequence
from random import Random
from typing import Any

INTEGERS = (0, 1, -1, 2, 127, 255, 256, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63)
NUMBERS = (
    *("0", "-1", "1e999", "-1e999", "nan", "NaN", "inf", "-Infinity", "1e-320", "0x10", "1_000", "9" * 25, "9" * 5000),
    *("٣", "½", "", " ", "'", '"', "null", "true", "1.5.2", "1e", "-", "\x00", "\ufeff", "\u202e", "é", "🤖"),
)
WORDS = ("x", "nan", "$tensor", "$tuple", "$float", "../../etc/passwd", "/dev/zero", "\x00", "\ud800", "<b>", "é" * 300)
DTYPES = ("|u1", "<f8", ">f4", "<f2", "<c16", "|b1", "|O", "<U9", "|S0", "|V99999999", "<M8[s]", "<f16", "[('a','u1')]")
DEPTHS = (100, 1000, 100_000)


def change_bytes(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """One change, seldom up to four: bits, bytes, integers, cuts, ends, repeats, and pieces of other files."""
    result = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        size = len(result)
        # Headers are short and decide: half of the changes are near the start, some near the end, where zip's are.
        end = random.choice((16, 160, size, size))
        at = random.randrange(max(1, min(end, size)))
        if random.random() < 0.15:
            at = max(0, size - 1 - at)
        match random.randrange(9):
            case 0 if size:
                result[at] ^= 1 << random.randrange(8)
            case 1 if size:
                result[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 2:
                form = random.choice(("<I", ">I", "<Q", ">Q", "<H", ">H"))
                number = random.choice(INTEGERS) % 2 ** (8 * struct.calcsize(form))
                result[at : at + struct.calcsize(form)] = struct.pack(form, number)
            case 3:
                del result[at : at + random.choice((1, 2, 9, 40))]
            case 4:
                result[at:at] = random.randbytes(random.choice((1, 4, 12)))
            case 5:
                del result[at:]
            case 6:
                piece = result[at : at + random.choice((1, 8, 64))]
                result[at:at] = piece * random.choice((1, 10, 1000))
            case 7 if others:
                other = random.choice(others)
                start = random.randrange(max(1, len(other)))
                result[at:] = other[start:]
            case _:
                return change_text(bytes(result), random)
    return bytes(result)


def change_text(content: bytes, random: Random) -> bytes:
    """Another number, or none, in place of one in a text."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?(e-?\d+)?|true|false|null", content))
    if not found:
        return content + random.choice(NUMBERS).encode(errors="surrogatepass")
    one = random.choice(found)
    return content[: one.start()] + random.choice(NUMBERS).encode(errors="surrogatepass") + content[one.end() :]


def claim_npy(random: Random) -> bytes:
    """A header of numpy's that declares anything, and a few bytes behind it."""
    shape = tuple(random.choice((*INTEGERS, 2, 3, 10**30)) for _ in range(random.randrange(5)))
    dtype = random.choice(DTYPES)
    kind = dtype if dtype.startswith("[") else repr(dtype)
    text = f"{{'descr': {kind}, 'fortran_order': {random.random() < 0.5}, 'shape': {shape}, }}"
    if random.random() < 0.1:
        text = "(" * random.choice(DEPTHS[:2]) + text
    version, form = random.choice(((b"\1\0", "<H"), (b"\2\0", "<I"), (b"\3\0", "<I")))
    head = text.encode()[: 2**16 - 1]
    return b"\x93NUMPY" + version + struct.pack(form, len(head)) + head + random.randbytes(random.choice((0, 8, 48)))


def claim_idx(random: Random) -> bytes:
    """A header of IDX that declares anything, and a few bytes behind it."""
    dims = [random.choice(INTEGERS) % 2**32 for _ in range(random.randrange(1, 6))]
    kind = random.choice((0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F))
    values = bytes(random.choice((0, 6, 48, 10**6)))
    return struct.pack(f">BBBB{len(dims)}I", 0, 0, kind, len(dims), *dims) + values


def change_inside_gzip(content: bytes, random: Random, others: Sequence[bytes]) -> bytes:
    """The unzipped content changed, the archive itself whole."""
    return gzip.compress(change_bytes(gzip.decompress(content), random, [gzip.decompress(one) for one in others]))


def change_inside_zip(content: bytes, random: Random) -> bytes:
    """One member of an archive changed or made up, the archive itself whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    members[name] = claim_npy(random) if random.random() < 0.5 else change_bytes(members[name], random)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for member, value in members.items():
            archive.writestr(member, value)
    return buffer.getvalue()


# --- values inside JSON and TOML ------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all nested values."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def leaf(random: Random, *, json_only: bool = False) -> Any:
    """A value that may be where it does not belong."""
    nested: Any = [] if random.random() < 0.5 else {}
    for _ in range(random.randrange(4)):
        nested = [nested] if random.random() < 0.5 else {random.choice(WORDS): nested}
    floats = (0.0, -0.0, 1e-320, 1e308, float("nan"), float("inf"), -float("inf"), 0.5)
    kinds = [random.choice(INTEGERS), 10**40, random.choice(floats), random.choice(WORDS), True, False, nested]
    return random.choice([*kinds, None] if json_only else kinds)


def change_values(value: Any, random: Random, *, json_only: bool = True) -> Any:
    """One to three nested values replaced, removed, added or copied."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 2, 3))):
        *path, key = random.choice(places(value)[1:] or [()]) or (None,)
        holder = value
        for part in path:
            holder = holder[part]
        if key is None or not isinstance(holder, dict | list):
            return value
        match random.randrange(5):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice(WORDS)] = leaf(random, json_only=json_only)
            case 2:
                at: Any = value
                for part in random.choice(places(value)):
                    at = at[part]
                holder[key] = copy.deepcopy(at)
            case _:
                holder[key] = leaf(random, json_only=json_only)
    return value


def change_json(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """The values, the text or the bytes of a file of JSON; or one that is nested deeper than a parser goes."""
    match random.randrange(8):
        case 0:
            opening = random.choice((b"[", b'{"a":', b'{"values":{"x":['))
            return opening * random.choice(DEPTHS)
        case 1:
            depth = random.choice(DEPTHS)
            return content.rstrip()[:-1] + b', "deep": ' + b"[" * depth + b"]" * depth + b"}"
        case 2 | 3:
            return change_bytes(content, random, others)
        case _:
            return json.dumps(change_values(json.loads(content), random)).encode(errors="surrogatepass")


def change_lines(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """A line of a file of JSON lines, or its bytes."""
    if random.random() < 0.3:
        return change_bytes(content, random, others)
    lines = content.splitlines()
    at = random.randrange(len(lines))
    lines[at] = change_json(lines[at], random, others)
    return b"\n".join(lines) + b"\n"


def change_safetensors(content: bytes, random: Random, others: Sequence[bytes] = ()) -> bytes:
    """The header of a file of tensors, which says dtypes, shapes and places; or its bytes."""
    if random.random() < 0.4:
        return change_bytes(content, random, others)
    size = int.from_bytes(content[:8], "little")
    header = change_json(content[8 : 8 + size], random)
    return len(header).to_bytes(8, "little") + header + content[8 + size :]
