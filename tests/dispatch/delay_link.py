"""A link with a delay between two network namespaces: a TUN device in each, packets handed over after half the round trip.

    delay_link.py NAMESPACE_A DEVICE_A NAMESPACE_B DEVICE_B RTT_MS      (prints "ready")
"""

import collections
import ctypes
import fcntl
import os
import select
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000


def open_tun(namespace: str, device: str) -> int:
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    target = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(target, 0) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", device.encode(), IFF_TUN | IFF_NO_PI))
    libc.setns(home, 0)
    os.close(home)
    os.close(target)
    return tun


def main():
    a, b = open_tun(sys.argv[1], sys.argv[2]), open_tun(sys.argv[3], sys.argv[4])
    delay = float(sys.argv[5]) / 2000
    waiting = collections.deque()
    print("ready", flush=True)
    while True:
        timeout = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        for fd in select.select([a, b], [], [], timeout)[0]:
            try:
                while True:
                    waiting.append((time.monotonic() + delay, b if fd == a else a, os.read(fd, 65536)))
            except BlockingIOError:
                pass
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, fd, packet = waiting.popleft()
            try:
                os.write(fd, packet)
            except OSError:
                pass  # the other side is down: lost, as on a real link


main()
