"""Write dirty logs of a small KVM guest: MIB of its memory, then STEP FILE ...

The guest is in real mode. For each STEP it writes a byte to each STEP-th page from
64 KiB to 640 KiB. Its dirty log, which this clears, goes to FILE.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys

PAGE_BYTES = 4096
CODE_AT = 0x1000
CODE = bytes.fromhex(
    "b8 00 10"  # mov ax, 0x1000
    "8e c0"  # again: mov es, ax
    "26 c6 06 00 00 2a"  # mov byte es:[0], 42
    "05 00 00"  # add ax, STEP * 0x100
    "3d 00 a0"  # cmp ax, 0xa000
    "72 f0"  # jb again
    "f4"  # hlt
)
STEP_AT = 13
EXIT_HLT = 5

# include/uapi/linux/kvm.h
CREATE_VM, GET_VCPU_MMAP_SIZE, CREATE_VCPU, RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
SET_USER_MEMORY_REGION, GET_DIRTY_LOG = 0x4020AE46, 0x4010AE42
SET_REGS, GET_SREGS, SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
LOG_DIRTY_PAGES = 1


def dirty_logs(nbytes, steps):
    """Yield the bitmap of a slot of ``nbytes`` after each run of the guest."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    vm = fcntl.ioctl(kvm, CREATE_VM, 0)
    memory = mmap.mmap(-1, nbytes)
    where = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    slot = struct.pack("=IIQQQ", 0, LOG_DIRTY_PAGES, 0, nbytes, where)
    fcntl.ioctl(vm, SET_USER_MEMORY_REGION, slot)
    vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
    state = mmap.mmap(vcpu, fcntl.ioctl(kvm, GET_VCPU_MMAP_SIZE, 0))
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, GET_SREGS, sregs, True)
    struct.pack_into("=QIH", sregs, 0, 0, 0xFFFF, 0)  # cs: base, limit, selector
    for step in steps:
        memory[CODE_AT : CODE_AT + len(CODE)] = CODE
        memory[CODE_AT + STEP_AT] = step
        fcntl.ioctl(vcpu, SET_SREGS, bytes(sregs))
        regs = struct.pack("=16Q2Q", *[0] * 16, CODE_AT, 2)  # rip, rflags
        fcntl.ioctl(vcpu, SET_REGS, regs)
        fcntl.ioctl(vcpu, RUN, 0)
        (why,) = struct.unpack_from("=I", state, 8)
        if why != EXIT_HLT:
            raise SystemExit(f"the guest ended by exit {why}")
        bits = (ctypes.c_uint64 * (nbytes // PAGE_BYTES // 64))()
        log = struct.pack("=IIQ", 0, 0, ctypes.addressof(bits))
        fcntl.ioctl(vm, GET_DIRTY_LOG, log)
        yield bytes(bits)


def main():
    mib, *pairs = sys.argv[1:]
    logs = dirty_logs(int(mib) << 20, map(int, pairs[::2]))
    for path, log in zip(pairs[1::2], logs, strict=True):
        with open(path, "wb") as file:
            file.write(log)


if __name__ == "__main__":
    main()
