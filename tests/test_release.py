"""How releases are read, and which are refused."""

import pytest

from extmeta.release import DEFAULT, RELEASES, release_named


def test_a_release_is_its_first_two_numbers():
    names = ("6.12", "6.12.117", "6.12.117-1-amd64", "6.12-rc3", "6.12+")
    assert {release_named(name) for name in names} == {(6, 12)}
    assert release_named(DEFAULT) in RELEASES


@pytest.mark.parametrize("name", ["6", "", "new", "6.x", "6.12x", "v6.12", " 6.12"])
def test_what_is_no_release_is_refused(name):
    with pytest.raises(ValueError, match=r"no version such as '6\.18'; 6\.7 to 7\.3"):
        release_named(name)


@pytest.mark.parametrize("name", ["6.6", "5.10", "6.20", "7.4", "66.12"])
def test_a_release_that_is_not_known_is_refused_with_those_that_are(name):
    with pytest.raises(ValueError, match=f"{name}' is not known; 6.7 to 7.3 are"):
        release_named(name)


def test_the_first_one_that_is_known_depends_on_what_is_asked():
    assert release_named("6.12", first=(6, 12)) == (6, 12)
    with pytest.raises(ValueError, match=r"6\.12 to 7\.3 are known"):
        release_named("6.11", first=(6, 12))
    with pytest.raises(ValueError, match=r"6\.7 to 6\.19 are known"):
        release_named("7.0", last=(6, 19))


@pytest.mark.parametrize("name", [6.12, (6, 12), None, b"6.12"])
def test_a_release_is_text(name):
    with pytest.raises(TypeError, match="release: "):
        release_named(name)
