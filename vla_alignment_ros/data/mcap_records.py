"""How the records of an mcap file begin, for those that rosbags and mcap do not do for us.

https://mcap.dev/spec. A record is its opcode, the length of the rest, and the rest; numbers are
little-endian.
"""

from __future__ import annotations

import struct

MESSAGE_OPCODE, CHUNK_OPCODE, INDEX_OPCODE = 0x05, 0x06, 0x07
PREFIX = 9  # bytes of opcode and length
MESSAGE = struct.Struct('<BQHIQQ')  # opcode, length; channel, sequence, log and publish time
MESSAGE_HEAD = MESSAGE.size - PREFIX  # of what the length counts, before the data
CHUNK = struct.Struct('<BQQQQII')  # opcode, length; times, plain bytes, checksum, name's bytes
# after it the name of the compression, and how long the packed records are
LENGTH = struct.Struct('<Q')
INDEX = struct.Struct('<BQHI')  # opcode, length; channel, bytes of the entries
ENTRY = struct.Struct('<QQ')  # log time, place in the chunk
