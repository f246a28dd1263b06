"""The suite that an encoding has to pass, also one of another package.

In a test, all at once or each check as a test of its own:

    from extmeta.testing import checks, conformance

    def test_mine():
        conformance(Mine)

    @pytest.mark.parametrize("check", checks())
    def test_mine(check):
        check(Mine, em.Fields(age=8))

It needs hypothesis and pytest: ``pip install 'extmeta[testing]'``. Hypothesis's
settings profile decides how many examples are tried.
"""

try:
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"extmeta.testing needs {error.name}: pip install 'extmeta[testing]'",
        name=error.name,
    ) from error

from extmeta.testing.suite import SMALL, Check, checks, conformance

__all__ = ["SMALL", "Check", "checks", "conformance"]
