"""Builds Linux 6.12 with words beside its PTE tables.

    python kernel/kernels.py [VARIANT ...]

Debian's source package is fetched by apt-get, unpacked, patched and compiled in a folder
of its own, build/kernel or $EXTMETA_KERNELS. Nothing is installed. What is done is not done
again, so a build that was stopped goes on.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("EXTMETA_KERNELS", HERE.parent / "build/kernel"))

PACKAGE, VERSION = "linux-source-6.12", "6.12.117-1~deb12u1"
SHA256 = "e849faf31ca3555757f3a8877cb01af92122f744f75d1f3102734651c4e14703"
TARBALL = "./usr/src/linux-source-6.12.tar.xz"
UNPACK = (
    'dpkg-deb --fsys-tarfile "$1" | tar xO "$2" | tar xJ --strip-components=1 -C "$3"'
)

# What a kernel's build needs and a machine may lack; unpacked beside the source.
TOOLS = ("bison", "flex", "m4", "libelf1", "libelf-dev")

PATCH = HERE / "hooks.patch"
# Our own files, and where they go in the tree.
OURS = {
    "extmeta.h": "include/linux/extmeta.h",
    "huge.h": "mm/extmeta_huge.h",
    "markers.h": "mm/extmeta_markers.h",
    "extmeta.c": "mm/extmeta.c",
    "containers.h": "mm/extmeta_containers.h",
    "Kconfig": "mm/Kconfig.extmeta",
}
VARIANTS = {
    "stock": "",
    "linked": "CONFIG_EXTMETA=y\n",
    "adjacent": "CONFIG_EXTMETA=y\nCONFIG_EXTMETA_ADJACENT=y\n",
    "adaptive": "CONFIG_EXTMETA=y\nCONFIG_EXTMETA_ADAPTIVE=y\n",
    "loop": "CONFIG_EXTMETA=y\nCONFIG_EXTMETA_LOOP=y\n",
    "sites": "CONFIG_EXTMETA=y\nCONFIG_EXTMETA_SITES=y\n",
}
# Those that check themselves.
DEBUG = {
    f"debug-{form}": VARIANTS[form] + (HERE / "debug.config").read_text()
    for form in ("linked", "adaptive")
}
# Those on which tests/kernel runs programs: their swap is a loop device.
ORACLE = {
    f"oracle-{form}": VARIANTS[form] + "CONFIG_BLK_DEV_LOOP=y\n"
    for form in ("linked", "adjacent", "adaptive")
}
VARIANTS |= DEBUG | ORACLE
# Those that are measured.
MEASURED = ("stock", "linked", "adjacent", "adaptive", "loop")


class Failed(Exception):
    """A command failed, or this machine lacks something."""


def run(
    *command: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> str:
    """Run a command; return its output, or raise Failed with the end of what it said."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=cwd, env=env, text=True, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise Failed(f"no {words[0]} on this machine") from None
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise Failed(f"{' '.join(words)} failed:\n{last}")
    return done.stdout


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, file=sys.stderr, flush=True)


def digest(path: Path) -> str:
    """Return a file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What is measured with: parts of /init.
PROGRAM = tuple(HERE / "guest" / name for name in ("guest.h", "init.c", "measure.c"))


def digest_of(paths: Sequence[Path]) -> str:
    """Return the sha256 of several files."""
    total = hashlib.sha256()
    for path in paths:
        total.update(path.read_bytes())
    return total.hexdigest()


def sources() -> str:
    """Return the sha256 of all that is ours in a measurement."""
    ours = (HERE / name for name in OURS)
    return digest_of((PATCH, HERE / "defconfig", *ours, *PROGRAM))


def download(package: str, where: Path) -> Path:
    """Fetch a package into a folder by apt-get; return its path."""
    where.mkdir(parents=True, exist_ok=True)
    name = package.partition("=")[0]
    if not (found := list(where.glob(f"{name}_*.deb"))):
        try:
            run("apt-get", "download", "-q", package, cwd=where)
        except Failed as error:
            raise Failed(
                f"{package} can't be fetched. Debian 12 has it; apt-get update may help, "
                f"or another version is in its place.\n{error}"
            ) from None
        found = list(where.glob(f"{name}_*.deb"))
    return found[0]


def tree(name: str) -> Path:
    """Return a fresh tree of Debian's source, unpacked if it isn't there."""
    target = FOLDER / name
    if target.exists():
        return target
    package = download(f"{PACKAGE}={VERSION}", FOLDER / "packages")
    if digest(package) != SHA256:
        raise Failed(f"{package} does not have the sha256 {SHA256}")
    say(f"unpacking {package.name}: half a minute")
    scratch = FOLDER / f"{name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    # One pipe: neither the tarball nor its contents twice on the disk.
    run("sh", "-c", UNPACK, "sh", package, TARBALL, scratch)
    scratch.rename(target)
    return target


def patched() -> Path:
    """Return the tree with our hooks and files, brought up to date."""
    pristine, target = tree("pristine"), FOLDER / "linux"
    applied = target / ".hooks.patch"
    if not target.exists():
        # Hard links: patch(1) and we replace files, and never write into them.
        run("cp", "-al", pristine, FOLDER / "linux.part")
        (FOLDER / "linux.part").rename(target)
    if not applied.exists() or applied.read_bytes() != PATCH.read_bytes():
        old = applied.read_text() if applied.exists() else ""
        for name in {*hooked(old), *hooked(PATCH.read_text())}:
            replace(pristine / name, target / name)
        applied.unlink(missing_ok=True)
        run("patch", "-p1", "-s", "-i", PATCH, cwd=target)
        applied.write_bytes(PATCH.read_bytes())
    for name, place in OURS.items():
        if not same(HERE / name, target / place):
            replace(HERE / name, target / place)
    return target


def hooked(patch: str) -> list[str]:
    """Return the names of the files that a patch changes."""
    return [line[6:] for line in patch.splitlines() if line.startswith("+++ b/")]


def same(one: Path, other: Path) -> bool:
    """Say if both files are there and equal."""
    return other.exists() and one.read_bytes() == other.read_bytes()


def replace(source: Path, target: Path) -> None:
    """Put a copy in place of a file, which may be a hard link."""
    target.unlink(missing_ok=True)
    target.write_bytes(source.read_bytes())


def tools() -> Path:
    """Return where bison, flex and libelf are, unpacked if they aren't there."""
    root = FOLDER / "tools"
    if not root.exists():
        packages = [download(name, FOLDER / "packages") for name in TOOLS]
        for package in packages:
            run("dpkg-deb", "-x", package, FOLDER / "tools.part")
        (FOLDER / "tools.part").rename(root)
    return root


def compiler() -> str:
    """Return the compiler's command: gcc, through ccache if there is one."""
    return "ccache gcc" if shutil.which("ccache") else "gcc"


def make(source: Path, objects: str, *targets: str) -> None:
    """Run the kernel's make for a folder of objects inside a tree."""
    root = tools()
    libraries = root / "usr/lib/x86_64-linux-gnu"
    env = {
        **os.environ,
        "PATH": f"{root / 'usr/bin'}:{os.environ['PATH']}",
        "M4": str(root / "usr/bin/m4"),
        "BISON_PKGDATADIR": str(root / "usr/share/bison"),
        "LD_LIBRARY_PATH": str(libraries),
        "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
        "KBUILD_BUILD_VERSION": "1",
        "KBUILD_BUILD_USER": "extmeta",
        "KBUILD_BUILD_HOST": "extmeta",
    }
    run(
        *("nice", "-n", "19", "make", "-s", f"-j{os.cpu_count()}", f"O={objects}"),
        *(f"CC={compiler()}", f"HOSTCC={compiler()}"),
        *(f"HOSTCFLAGS=-I{root / 'usr/include'}", f"HOSTLDFLAGS=-L{libraries}"),
        *targets,
        cwd=source,
        env=env,
    )


def configure(source: Path, variant: str, objects: str) -> None:
    """Write a variant's configuration into a folder of objects."""
    folder = source / objects
    folder.mkdir(exist_ok=True)
    text = (HERE / "defconfig").read_text() + VARIANTS[variant]
    asked = folder / ".config.asked"
    if not asked.exists() or asked.read_text() != text:
        asked.unlink(missing_ok=True)
        (folder / ".config").write_text(text)
        make(source, objects, "olddefconfig")
        asked.write_text(text)


def compiled(variant: str) -> Path:
    """Compile a variant; return the folder with its objects.

    Those of DEBUG share one, and all others share one, so that another variant compiles
    only what differs.
    """
    source = patched()
    objects = "debug" if variant in DEBUG else "objects"
    say(f"building {variant}: minutes, on {os.cpu_count()} processors")
    configure(source, variant, objects)
    make(source, objects, "vmlinux")
    return source / objects


def recipe(variant: str) -> str:
    """Return the sha256 of what a variant is made of."""
    total = hashlib.sha256(VARIANTS[variant].encode())
    for path in (PATCH, HERE / "defconfig", *(HERE / name for name in OURS)):
        total.update(path.read_bytes())
    return total.hexdigest()


def built(variant: str) -> Path | None:
    """Return a variant's vmlinux; None if it isn't built of what is here now."""
    made_of = FOLDER / f"vmlinux.{variant}.sha256"
    if made_of.exists() and made_of.read_text() == recipe(variant):
        return FOLDER / f"vmlinux.{variant}"
    return None


def build(variant: str) -> Path:
    """Return a variant's vmlinux, built if what it is made of has changed."""
    if (found := built(variant)) is None:
        found = FOLDER / f"vmlinux.{variant}"
        made_of = FOLDER / f"vmlinux.{variant}.sha256"
        made_of.unlink(missing_ok=True)
        # Of what it is made before the build, since files may change meanwhile.
        of = recipe(variant)
        shutil.copy(compiled(variant) / "vmlinux", found)
        made_of.write_text(of)
    return found


def main(arguments: Sequence[str]) -> None:
    """Build the variants that are named, or those that are measured."""
    for variant in arguments or MEASURED:
        if variant not in VARIANTS:
            raise Failed(f"no variant {variant!r}: there are {', '.join(VARIANTS)}")
        print(build(variant))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Failed as error:
        sys.exit(f"kernel/kernels.py: {error}")
