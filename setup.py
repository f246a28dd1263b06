"""Compile every .pyx under src/: a new encoding needs no edit here."""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

# `make sanitize`: bounds checks, AddressSanitizer, UBSan, and no warning passes;
# `make tsan`: ThreadSanitizer. Both abort on an allocation under a table's lock.
KIND = os.environ.get("EXTMETA_DEBUG", "")
SANITIZERS = {"": "", "1": "address,undefined", "thread": "thread"}[KIND]
DEBUG = bool(SANITIZERS)
SRC = Path("src")
JOBS = os.cpu_count() or 1

Options.warning_errors = DEBUG


def extension(pyx: Path) -> Extension:
    name = ".".join(pyx.relative_to(SRC).with_suffix("").parts)
    flags = ["-O1", "-g", f"-fsanitize={SANITIZERS}"] if DEBUG else ["-O3"]
    return Extension(
        name,
        [str(pyx)],
        define_macros=[("EXTMETA_DEBUG", "1")] * DEBUG,
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
