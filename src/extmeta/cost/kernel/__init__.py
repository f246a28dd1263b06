"""What the kernel's own operations cost a PTE: measured here, or in a guest.

timing.c puts clocks around the system calls. `host` runs it on this kernel and
tells ns; `guest` runs it in a virtual machine whose clock counts instructions.
`costs` are the results, and the file that keeps them.
"""
