"""Compile every .pyx under src/: a new encoding needs no edit here."""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

# `make sanitize`: bounds checks, AddressSanitizer, UBSan, and no warning passes;
# `make tsan`: ThreadSanitizer. Both abort on an allocation under a table's lock.
# benchmarks/locking.py: without tables' locks, for one thread only.
KIND = os.environ.get("EXTMETA_DEBUG", "")
SANITIZERS = {"": "", "1": "address,undefined", "thread": "thread", "unlocked": ""}[
    KIND
]
DEBUG = bool(SANITIZERS)
UNLOCKED = KIND == "unlocked"
# Unless whoever packages it asks for something else.
OPTIMIZE = [] if "-O" in os.environ.get("CFLAGS", "") else ["-O3"]
SRC = Path("src")
JOBS = os.cpu_count() or 1

Options.warning_errors = DEBUG


def extension(pyx: Path) -> Extension:
    name = ".".join(pyx.relative_to(SRC).with_suffix("").parts)
    flags = ["-O1", "-g1", f"-fsanitize={SANITIZERS}"] if DEBUG else OPTIMIZE
    return Extension(
        name,
        [str(pyx)],
        define_macros=[("EXTMETA_DEBUG", "1")] * DEBUG
        + [("EXTMETA_UNLOCKED", "1")] * UNLOCKED,
        extra_compile_args=["-Wall", "-Wextra", *flags, *["-Werror"] * DEBUG],
        extra_link_args=flags if DEBUG else [],
    )


setup(
    options={"build_ext": {"parallel": JOBS}},
    ext_modules=cythonize(
        [extension(pyx) for pyx in sorted(SRC.rglob("*.pyx"))],
        # Apart: the two builds differ in what the generated C checks.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        nthreads=JOBS,
        compiler_directives={
            "language_level": 3,
            "freethreading_compatible": True,
            "boundscheck": DEBUG,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": DEBUG,
            "embedsignature": True,
        },
    ),
)
