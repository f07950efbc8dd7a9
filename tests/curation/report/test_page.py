"""The report in a real browser: whole, drawn, quiet, and readable on a phone and on paper.

Screenshots are kept in pytest's cache folder (`.pytest_cache/d/report/`), so that a change can be looked at.
"""

import re
import shutil
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on the PATH: the page is not opened (Debian and Ubuntu: apt install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=0)
        yield found
        found.close()


@pytest.fixture(scope="module")
def screenshots(request) -> Path:
    return Path(request.config.cache.mkdir("report"))


@pytest.fixture
def opened(browser, report):
    """Opens the page by its file, as a double click does; what it asks for and complains of is noted on it."""
    contexts = []

    def go(viewport, scheme="light"):
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme))
        contexts[-1].set_default_timeout(0)  # a busy machine takes its time
        page = contexts[-1].new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.goto(report.as_uri())
        page.wait_for_load_state("networkidle")
        return page

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize(
    ("name", "viewport", "scheme"),
    [("desk", DESKTOP, "light"), ("desk-dark", DESKTOP, "dark"), ("phone", PHONE, "light")],
)
def test_the_page_fetches_nothing_complains_of_nothing_and_fits(opened, report, screenshots, name, viewport, scheme):
    page = opened(viewport, scheme)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert [url for url in page.asked if not url.startswith("data:")] == [report.as_uri()]
    assert not page.complaints
    widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert widths[0] <= widths[1], "the page scrolls sideways"
    page.screenshot(path=screenshots / f"{name}.png", full_page=True)


def test_no_plot_is_empty_and_all_that_is_drawn_lies_inside(opened):
    """As rendered: every plot has marks in a series' colour, text, and nothing beyond its frame."""
    plots = opened(DESKTOP).evaluate(
        """() => [...document.querySelectorAll('svg[role=img]')].map(svg => {
            const frame = svg.getBoundingClientRect()
            const drawn = [...svg.querySelectorAll('path, use, text')].filter(one => one.getBoundingClientRect().width
                || one.getBoundingClientRect().height)
            const boxes = drawn.filter(one => !one.closest('clipPath') && !one.closest('defs')).map(
                one => one.getBoundingClientRect())
            const marks = [...svg.querySelectorAll('path, use')].filter(
                one => /--s[1-8]/.test(one.getAttribute('style')) && !one.closest('defs'))
            const beyond = boxes.filter(box => box.left < frame.left - 4 || box.right > frame.right + 4
                || box.top < frame.top - 4 || box.bottom > frame.bottom + 4)
            return {name: svg.querySelector('title').textContent, width: frame.width, height: frame.height,
                marks: marks.length, words: svg.querySelectorAll('text').length, beyond: beyond.length}
        })"""
    )
    assert len(plots) > 30
    for plot in plots:
        assert plot["width"] > 300 and plot["height"] > 60, plot
        # Pairs are in colour where they differ, and a measure that is not rewarded has no verdict.
        without_verdict = plot["name"].startswith("Differences in") and "not rewarded" in plot["name"]
        assert (plot["marks"] > 0) != without_verdict and plot["words"] > 3, plot
        assert plot["beyond"] == 0, plot


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_curves_stand_out_from_the_page(opened, scheme):
    """Contrast by WCAG 2: 4.5 for text, 3 for what is drawn; in both schemes."""
    colours = opened(DESKTOP, scheme).evaluate(
        """() => {
            const probe = document.body.appendChild(document.createElement('i'))
            return Object.fromEntries(['page', 'ink', 'faint', 'better', 'worse', 'accent', 'panel', 'ins', 'del',
                's1', 's2', 's3', 's4', 's5', 's6', 's7', 's8'].map(name => {
                    probe.style.color = `var(--${name})`
                    return [name, getComputedStyle(probe).color]
                }))
        }"""
    )
    for name in ("ink", "faint", "better", "worse", "accent"):
        assert contrast(colours[name], colours["page"]) >= 4.5, name
    for ground in ("panel", "ins", "del"):
        assert contrast(colours["ink"], colours[ground]) >= 4.5, ground
    for number in range(1, 9):
        assert contrast(colours[f"s{number}"], colours["page"]) >= 3, number


def contrast(one, other):
    """Of two CSS colours, 1 ... 21."""
    brighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def luminance(colour):
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_it_prints_the_whole_config_and_every_plot(opened, screenshots):
    page = opened(DESKTOP, "dark")
    path = screenshots / "print.pdf"
    page.pdf(path=path, format="A4")
    assert path.read_bytes().startswith(b"%PDF") and path.stat().st_size > 100_000
    page.emulate_media(media="print", color_scheme="dark")
    shown = page.evaluate(
        "[getComputedStyle(document.body).backgroundColor, document.querySelector('pre').offsetHeight]"
    )
    assert contrast(shown[0], "rgb(0, 0, 0)") > 15, "paper is white, whatever the screen is"
    assert shown[1] > 100, "the config is printed, though it is folded on the screen"
