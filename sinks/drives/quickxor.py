"""quickXorHash, OneDrive's and SharePoint's checksum: 160 bits, base64.

Byte i is rotated left by 11·i bits within 160 and XORed in; at the end the length is XORed into the last 8 bytes. The rotation repeats
every 160 bytes, so the bytes are first folded into a block by XOR and turned once.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

WIDTH: Final = 20
PERIOD: Final = 160
BLOCK: Final = PERIOD * 4096


class QuickXor:
    def __init__(self) -> None:
        self._folded = 0
        self._size = 0
        self._rest = b""

    def update(self, data: bytes) -> None:
        self._size += len(data)
        data = self._rest + data
        whole = len(data) - len(data) % BLOCK
        for start in range(0, whole, BLOCK):
            self._folded ^= int.from_bytes(data[start : start + BLOCK], "little")
        self._rest = data[whole:]

    def digest(self) -> str:
        folded = (self._folded ^ int.from_bytes(self._rest, "little")).to_bytes(BLOCK, "little")
        lanes = 0
        for start in range(0, BLOCK, PERIOD):
            lanes ^= int.from_bytes(folded[start : start + PERIOD], "little")
        turned = 0
        for position, byte in enumerate(lanes.to_bytes(PERIOD, "little")):
            turned ^= byte << (11 * position % PERIOD)
        overflow, ring = turned >> (8 * WIDTH), (1 << (8 * WIDTH)) - 1
        turned = (turned & ring) ^ overflow ^ ((self._size & (1 << 64) - 1) << 96)
        return base64.b64encode(turned.to_bytes(WIDTH, "little")).decode()


def quick_xor(file: Path) -> str:
    """The hash of a file."""
    hashed = QuickXor()
    with file.open("rb") as source:
        while block := source.read(BLOCK):
            hashed.update(block)
    return hashed.digest()
