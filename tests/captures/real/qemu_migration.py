"""Write the migration stream of a small QEMU guest: STEP PASSES FILE.

The guest has 4 MiB and is its own firmware. Without end it writes a byte to each
STEP-th page from 64 KiB to 640 KiB. Its memory is saved by `migrate`, which is kept
from converging until it has begun to send PASSES times what was written meanwhile.
"""

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

FIRMWARE_BYTES = 1 << 16
CODE_AT = 0xE000
CODE = bytes.fromhex(
    "b8 00 10"  # begin: mov ax, 0x1000
    "8e c0"  # again: mov es, ax
    "26 c6 06 00 00 2a"  # mov byte es:[0], 42
    "05 00 00"  # add ax, STEP * 0x100
    "3d 00 a0"  # cmp ax, 0xa000
    "72 f0"  # jb again
    "eb eb"  # jmp begin
)
STEP_AT = 13
RESET_AT = FIRMWARE_BYTES - 16
RESET = bytes.fromhex("ea 00 e0 00 f0")  # jmp 0xf000:CODE_AT

QEMU = "qemu-system-x86_64 -nodefaults -no-user-config -display none -m 4 -accel kvm"
# Slow at first: no pass ends before the guest has written its pages again.
SLOW = {"max-bandwidth": 1 << 18, "downtime-limit": 1}
FAST = {"max-bandwidth": 1 << 30, "downtime-limit": 10_000}


def firmware(step):
    made = bytearray(FIRMWARE_BYTES)
    made[CODE_AT : CODE_AT + len(CODE)] = CODE
    made[CODE_AT + STEP_AT] = step
    made[RESET_AT : RESET_AT + len(RESET)] = RESET
    return made


class Monitor:
    """QMP over a pipe."""

    def __init__(self, connection):
        self.file = connection.makefile("rw")
        json.loads(self.file.readline())
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}))
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise SystemExit(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]


def main():
    step, passes, target = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    ours, qemus = socket.socketpair()
    with tempfile.TemporaryDirectory() as folder:
        bios = Path(folder, "bios")
        bios.write_bytes(firmware(step))
        command = [*QEMU.split(), "-bios", bios, "-mon", "qmp,mode=control"]
        command += ["-chardev", f"socket,id=qmp,fd={qemus.fileno()}"]
        with subprocess.Popen(command, pass_fds=[qemus.fileno()]) as process:
            qemus.close()
            monitor = Monitor(ours)
            monitor("migrate-set-parameters", **SLOW)
            monitor("migrate", uri=f"exec:cat > {target.absolute()}")
            while (found := monitor("query-migrate"))["status"] != "completed":
                if found["status"] == "failed":
                    raise SystemExit(f"migrate: {found}")
                if found.get("ram", {}).get("dirty-sync-count", 0) >= passes:
                    monitor("migrate-set-parameters", **FAST)
            print(json.dumps(found), file=sys.stderr)
            monitor("quit")
            process.wait()


if __name__ == "__main__":
    main()
