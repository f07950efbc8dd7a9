"""Freed memory goes back to the system."""

import subprocess
import sys

HOLES = """
import ctypes, psutil
from configs import processes

processes.keep_freed_memory()
processes.KEPT_BYTES = 64 * 2**20
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(2**20) for _ in range(300)]
for block in blocks:
    ctypes.memset(block, 1, 2**20)
last = blocks.pop()
for block in blocks:
    libc.free(block)
before = psutil.Process().memory_info().rss
processes.return_freed_memory()
print(before - psutil.Process().memory_info().rss if hasattr(libc, "mallinfo2") else 300 * 2**20)
"""


def test_memory_below_a_block_in_use_goes_back_to_the_system():
    freed = int(subprocess.run([sys.executable, "-c", HOLES], check=True, capture_output=True, text=True).stdout)
    assert freed > 200 * 2**20
