"""A writer of small MaxMind databases (version 2.0 of the format), for tests: networks and a value for each."""

import ipaddress
import struct

MARKER = b"\xab\xcd\xefMaxMind.com"


def encode(value) -> bytes:
    """A field of the data section: maps, lists, text, doubles, truth values, whole numbers as (bits, number)."""
    def head(kind: int, size: int) -> bytes:
        extended = kind > 7
        first = 0 if extended else kind << 5
        if size < 29:
            rest, low = b"", size
        elif size < 285:
            rest, low = bytes([size - 29]), 29
        elif size < 65821:
            rest, low = struct.pack("!H", size - 285), 30
        else:
            rest, low = (size - 65821).to_bytes(3, "big"), 31
        return bytes([first | low]) + (bytes([kind - 7]) if extended else b"") + rest

    if isinstance(value, tuple):  # a whole number of a named width
        kind, number = {16: 5, 32: 6, 64: 9}[value[0]], value[1]
        raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
        return head(kind, len(raw)) + raw
    if isinstance(value, bool):
        return head(14, int(value))
    if isinstance(value, dict):
        return head(7, len(value)) + b"".join(encode(k) + encode(v) for k, v in value.items())
    if isinstance(value, list):
        return head(11, len(value)) + b"".join(encode(v) for v in value)
    if isinstance(value, str):
        raw = value.encode()
        return head(2, len(raw)) + raw
    if isinstance(value, float):
        return head(3, 8) + struct.pack("!d", value)
    raise TypeError(type(value))


def build(networks: dict[str, dict], ip_version=6, record_size=28, kind="GeoLite2-City") -> bytes:
    """The whole database; IPv4 networks lie under ::/96 of an IPv6 one. Later networks win over earlier ones around them."""
    nodes: list[list] = [[None, None]]  # a child is None, ("node", n) or ("data", offset)
    data, places = b"", {}
    for text, value in networks.items():
        network = ipaddress.ip_network(text)
        raw = encode(value)
        if raw not in places:
            places[raw] = len(data)
            data += raw
        bits = f"{int(network.network_address):0{network.max_prefixlen}b}"[:network.prefixlen]
        if ip_version == 6 and network.version == 4:
            bits = "0" * 96 + bits
        at = 0
        for bit in bits[:-1]:
            child = nodes[at][int(bit)]
            if child is None or child[0] == "data":
                nodes.append([child, child])
                child = nodes[at][int(bit)] = ("node", len(nodes) - 1)
            at = child[1]
        nodes[at][int(bits[-1])] = ("data", places[raw])

    def record(child) -> int:
        if child is None:
            return len(nodes)
        return child[1] if child[0] == "node" else len(nodes) + 16 + child[1]

    tree = b""
    for left, right in ((record(a), record(b)) for a, b in nodes):
        if record_size == 24:
            tree += left.to_bytes(3, "big") + right.to_bytes(3, "big")
        elif record_size == 28:
            tree += (left & 0xFFFFFF).to_bytes(3, "big") + bytes([left >> 24 << 4 | right >> 24]) + (right & 0xFFFFFF).to_bytes(3, "big")
        else:
            tree += left.to_bytes(4, "big") + right.to_bytes(4, "big")
    metadata = {"node_count": (32, len(nodes)), "record_size": (16, record_size), "ip_version": (16, ip_version), "database_type": kind,
                "languages": ["en"], "binary_format_major_version": (16, 2), "binary_format_minor_version": (16, 0),
                "build_epoch": (64, 1_700_000_000),
                "description": {"en": "made by a test"}}
    return tree + bytes(16) + data + MARKER + encode(metadata)


def place(north: float, east: float, country="XX") -> dict:
    return {"country": {"iso_code": country}, "location": {"latitude": north, "longitude": east}}
