from Cython.Build import cythonize
from setuptools import setup

setup(ext_modules=cythonize(["consumer.pyx", "probe.pyx"], language_level=3))
