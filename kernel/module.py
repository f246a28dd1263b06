"""Builds the module for Debian's stock kernel and checks it: `python kernel/module.py`.

The kernel and its headers are fetched by apt-get and unpacked, not installed. With
`python kernel/module.py measure` it prints instructions a PTE: without the module, with
it, and with a word on every page.
"""

import re
import shutil
import sys
from pathlib import Path

from boot import boot
from check import passed
from kernels import FOLDER, HERE, Failed, download, run

from extmeta.cost.kernel import guest


def stock() -> tuple[Path, str]:
    """Return Debian's kernel image, fetched if it isn't there, and its version."""
    try:
        image, _module = guest.kernel(FOLDER / "guest")
    except guest.Missing as missing:
        raise Failed(str(missing)) from None
    return image, image.name.removeprefix("vmlinuz-")


def headers(version: str) -> Path:
    """Return the folder of a kernel's headers, fetched if it isn't there."""
    base = version.removesuffix("-cloud-amd64")
    root = FOLDER / f"headers-{version}"
    folder = root / f"usr/src/linux-headers-{version}"
    if root.exists():
        return folder
    scratch = FOLDER / "headers.part"
    shutil.rmtree(scratch, ignore_errors=True)
    for name in f"headers-{version}", f"headers-{base}-common", f"kbuild-{base}":
        run("dpkg-deb", "-x", download(f"linux-{name}", FOLDER / "packages"), scratch)
    makefile = scratch / folder.relative_to(root) / "Makefile"
    text = makefile.read_text()
    makefile.write_text(text.replace("include /usr/src", f"include {root}/usr/src"))
    # Without it, the step that makes BTF is left out; it needs pahole(1).
    makefile.with_name("vmlinux").unlink(missing_ok=True)
    scratch.rename(root)
    return folder


def built(version: str) -> bytes:
    """Compile the module for a version of Debian's kernel."""
    folder = FOLDER / "module"
    folder.mkdir(parents=True, exist_ok=True)
    for source in (HERE / "extmeta.h", *(HERE / "module").iterdir()):
        shutil.copy(source, folder)
    run("make", "-s", "-C", headers(version), f"M={folder}", "modules")
    return (folder / "em.ko").read_bytes()


def measure(image: Path, module: bytes) -> None:
    """Print instructions a PTE."""
    counts: dict[str, list[str]] = {}
    for files, percent in (((), 0), (module, 0), (module, 100)):
        output = boot(
            image,
            f"quiet do=measure mib=64 runs=2 pct={percent}",
            files=[("em.ko", 0o100644, files)] if files else [],
        )
        for name, value in re.findall(r"^RESULT (\w+) .*?(\S+)$", output, re.MULTILINE):
            counts.setdefault(name, []).append(value)
    print(f"{'':<18}{'stock':>10}{'module':>10}{'words':>10}")
    for name, values in counts.items():
        print(f"{name:<18}" + "".join(f"{value:>10}" for value in values))


def main(arguments: list[str]) -> None:
    """Build, then check or measure."""
    if arguments not in ([], ["measure"]):
        raise Failed(f"can't {' '.join(arguments)!r}: measure, or nothing")
    image, version = stock()
    module = built(version)
    if arguments:
        measure(image, module)
    else:
        output = boot(image, "quiet do=check", files=[("em.ko", 0o100644, module)])
        passed(f"module on {version}", output, "CHECKS")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as error:
        sys.exit(f"kernel/module.py: {error}")
