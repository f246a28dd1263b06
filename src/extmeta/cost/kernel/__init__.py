"""What the kernel's own operations cost for each PTE: measured here, or in a guest.

timing.c puts clocks around the system calls. `host` runs it on this kernel and measures
ns; `guest` runs it in a virtual machine whose clock counts instructions. `costs` has
the results, and the file that stores them.
"""
