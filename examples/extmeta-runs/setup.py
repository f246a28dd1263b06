from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        Extension("extmeta_runs.flagless", ["src/extmeta_runs/flagless.pyx"]),
        build_dir="build",
        compiler_directives={"language_level": 3, "wraparound": False},
    )
)
