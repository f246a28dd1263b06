"""The page of a report in Chromium, at two widths and in both themes."""

import contextlib
import shutil

import pytest

import extmeta as em
from extmeta.cost import crossover, demands, measure, sweep
from extmeta.cost.space import space_of
from extmeta.reports.document import sections
from extmeta.rows import Point

pytest.importorskip("matplotlib")
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from extmeta.reports.document import html

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs chromium and its driver"
    ),
]

FIELDS = em.Fields(uffd_wp=1, soft_dirty=1, age=8)
FORMS = ["adjacent", "linked", "adaptive", "xarray", "hash"]
POINTS = [Point(0.0, ""), Point(0.01, "random")]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page about a shipped capture; its path, and its number of charts."""
    space = space_of(em.load_capture(em.shipped()["redis"]), "redis")
    hasty = {"rounds": measure.MIN_ROUNDS, "budget_ns": 0}
    rows = [*sweep.sweep(space, FORMS, FIELDS, POINTS, **hasty)]
    rows += demands.demanded(FORMS, FIELDS, space.arch)
    rows += crossover.crossover(FORMS, FIELDS, nr_tables=8)
    document = sections.document(rows, {"seed": 0, "command": ["extmeta", "report"]})
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html.page(document))
    return path, len(document.charts)


@contextlib.contextmanager
def browser(width, theme, scripts=True):
    """Start Chromium without a window."""
    options = Options()
    options.binary_location = CHROMIUM
    # Root may not use the sandbox, and /dev/shm of a container is small.
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    if not scripts:
        never = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", never)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 500}
        )
        features = [{"name": "prefers-color-scheme", "value": theme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        yield driver
    finally:
        driver.quit()


@pytest.fixture(
    scope="module",
    params=[(w, theme) for w in (390, 1400) for theme in ("light", "dark")],
    ids=lambda given: f"{given[0]}-{given[1]}",
)
def shown(request, page):
    """A browser that shows the page."""
    with browser(*request.param) as driver:
        driver.get(page[0].as_uri())
        yield driver


def test_nothing_is_said_on_the_console_and_nothing_is_asked_for(shown, page):
    assert shown.get_log("browser") == []
    loaded = shown.execute_script("return performance.getEntriesByType('resource')")
    assert loaded == []
    requests = [
        entry["message"]
        for entry in shown.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
        and page[0].name not in entry["message"]
        and '"url":"data:' not in entry["message"]
    ]
    assert requests == []


def test_charts_are_there_and_fit(shown, page):
    charts = shown.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(svg => {"
        "const box = svg.getBoundingClientRect();"
        "const outside = [...svg.querySelectorAll('text')].filter(text => {"
        "  const t = text.getBoundingClientRect();"
        "  return t.left < box.left - 1 || t.right > box.right + 1"
        "      || t.top < box.top - 1 || t.bottom > box.bottom + 1});"
        "return [box.width, box.height, outside.map(text => text.textContent)]})"
    )
    assert len(charts) == page[1]
    for width, height, outside in charts:
        assert width > 300
        assert height > 100
        assert outside == []
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert shown.execute_script(wide) <= 0


def test_the_theme_is_followed(shown, request):
    colour = "return getComputedStyle(document.body).backgroundColor"
    paper = shown.execute_script(colour)
    theme = request.node.callspec.params["shown"][1]
    assert (paper == "rgb(20, 23, 27)") == (theme == "dark")
    text = "return getComputedStyle(document.querySelector('svg text')).fill"
    ink = {"dark": "rgb(230, 232, 235)", "light": "rgb(27, 31, 36)"}
    assert shown.execute_script(text) == ink[theme]


def test_axe_finds_nothing(shown):
    axe = pytest.importorskip("axe_core_python.selenium").Axe()
    # What <details> hides is looked at too.
    shown.execute_script(
        "document.querySelectorAll('details').forEach(d => d.open = 1)"
    )
    found = axe.run(shown)
    assert [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]] == []


def test_it_can_be_read_without_scripts(page):
    with browser(1400, "light", scripts=False) as driver:
        driver.get(page[0].as_uri())
        assert "adaptive" in driver.find_element("tag name", "main").text
        assert len(driver.find_elements("css selector", "figure svg")) == page[1]
