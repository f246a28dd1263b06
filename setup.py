"""Compile every .pyx under src/: a new encoding needs no edit here."""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# EXTMETA_DEBUG=1 (`make sanitize`) turns on bounds checks, AddressSanitizer and
# UBSan, and makes each warning an error. EXTMETA_DEBUG=thread (`make tsan`) turns on
# ThreadSanitizer. Both abort on an allocation under a table's lock.
# EXTMETA_DEBUG=unlocked (benchmarks/locking.py) leaves out the tables' locks.
KIND = os.environ.get("EXTMETA_DEBUG", "")
SANITIZERS = {"": "", "1": "address,undefined", "thread": "thread", "unlocked": ""}[
    KIND
]
DEBUG = bool(SANITIZERS)
UNLOCKED = KIND == "unlocked"
# EXTMETA_EXTENSIONS=0 installs the package's Python alone. `make` does that once and
# then compiles in place, so that nothing is compiled twice.
COMPILED = os.environ.get("EXTMETA_EXTENSIONS") != "0"
# Whoever packages extmeta may ask for another level, or for debug information, which
# makes the extensions eight times as large.
CFLAGS = os.environ.get("CFLAGS", "").split()
OPTIMIZE = [] if any(flag.startswith("-O") for flag in CFLAGS) else ["-O3"]
OPTIMIZE += [] if any(flag.startswith("-g") for flag in CFLAGS) else ["-g0"]
SRC = Path("src")
# What the tests compile against the core's .pxd files. No wheel has it.
OF_TESTS = Path("tests/table/torn.pyx")
JOBS = os.cpu_count() or 1

Options.warning_errors = DEBUG


class BuildExt(build_ext):
    """Compile side by side, and say how far it is."""

    visited = 0

    def build_extension(self, ext: Extension) -> None:
        built = Path(self.get_ext_fullpath(ext.name))
        before = built.stat().st_mtime_ns if built.exists() else None
        super().build_extension(ext)
        self.visited += 1
        if built.stat().st_mtime_ns != before:
            done = f"{self.visited} of {len(self.extensions)}"
            print(f"extmeta: {done}: compiled {ext.name}", file=sys.stderr, flush=True)


def extension(pyx: Path) -> Extension:
    inside = pyx.relative_to(SRC) if pyx.is_relative_to(SRC) else Path(pyx.name)
    name = ".".join(inside.with_suffix("").parts)
    flags = ["-O1", "-g1", f"-fsanitize={SANITIZERS}"] if DEBUG else OPTIMIZE
    return Extension(
        name,
        [str(pyx)],
        define_macros=[("EXTMETA_DEBUG", "1")] * DEBUG
        + [("EXTMETA_UNLOCKED", "1")] * UNLOCKED,
        extra_compile_args=["-Wall", "-Wextra", *flags, *["-Werror"] * DEBUG],
        extra_link_args=flags if DEBUG else [],
    )


def extensions() -> list[Extension]:
    # The largest come first, so that no processor ends up with one of them alone.
    sources = sorted(SRC.rglob("*.pyx"), key=lambda pyx: -pyx.stat().st_size)
    if DEBUG or "--inplace" in sys.argv:
        sources.append(OF_TESTS)
    return cythonize(
        [extension(pyx) for pyx in sources],
        # The two kinds of build differ in what the generated C checks.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        nthreads=JOBS,
        quiet=True,
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "embedsignature": True,
        },
    )


setup(
    cmdclass={"build_ext": BuildExt},
    options={"build_ext": {"parallel": JOBS}},
    ext_modules=extensions() if COMPILED else [],
)
