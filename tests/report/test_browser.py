"""The report in a real browser: Chromium as Debian packages it."""

import html
import json
import re
import shutil
import subprocess

import pytest

from edakari.report import collect, render, write_report
from tests.report.test_report import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; apt-get install chromium")
PAPER = {"A4": (210, 297), "Letter": (216, 279)}
"""Width and height, mm."""
MARGIN, PX = 12, 96 / 25.4
"""Margin of a printed page, mm, and px in a mm."""
SIZES = """
const all = [...document.querySelectorAll("body *")].filter(e => !e.closest("svg, .hidden, BOXES") && e.offsetParent);
const over = all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName);
const boxes = [...document.querySelectorAll(".scroll:has(.SELECTOR)")];
const scrolled = boxes.filter(e => e.scrollWidth > e.clientWidth + 1);
return {page: document.documentElement.scrollWidth, over, scrolled: scrolled.map(e => e.innerText.slice(0, 40))};
"""


def sizes(kind):
    """A script that finds what is too wide; tables of other kinds may scroll."""
    return SIZES.replace("SELECTOR", kind).replace("BOXES", f".scroll:not(:has(.{kind})) table, pre")


def chromium(*arguments):
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=20000",
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout


def answer(tmp_path, page, script, width=1100):
    """What a script returns on the page, in a frame of this width: windows have a smallest one."""
    body = json.dumps(f"return (async () => {{{script}}})()")
    (tmp_path / "frame.html").write_text(
        f'<body><iframe width="{width}" height="900" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        "<pre></pre><script>const frame = document.querySelector('iframe'); frame.onload = async () => {"
        f"const found = await new frame.contentWindow.Function({body})();"
        "document.querySelector('pre').textContent = JSON.stringify(found); frame.remove(); };</script>"
    )
    dom = chromium("--dump-dom", f"file://{tmp_path}/frame.html")
    return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dom, re.DOTALL)[1]))


def page_of(folder, groups):
    make_run(folder, groups)
    path = folder / "stages" / "prune.json"
    steps = [
        {"stage": f"iteration {n}: a step with a name", "macs": 1e9 - n, "params": 5e6, "loss": 1 / (n + 1)}
        for n in range(groups)
    ]
    path.write_text(json.dumps({**json.loads(path.read_text()), "log": steps}))
    return render(collect(folder))


@pytest.fixture(params=[12, 200], ids=["small", "large"])
def page(request, tmp_path):
    return page_of(tmp_path / "run", request.param)


def test_a_phone_shows_the_result_without_scrolling_sideways(tmp_path, page):
    found = answer(tmp_path, page, sizes("main"), width=390)
    assert found == {"page": 390, "over": [], "scrolled": []}


@pytest.mark.parametrize("paper", PAPER)
def test_nothing_is_cut_in_print_and_four_pages_are_enough(tmp_path, page, paper):
    wide = int((PAPER[paper][0] - 2 * MARGIN) * PX)
    found = answer(tmp_path, page.replace("@media print", "@media all"), sizes("numbers"), wide)
    assert (found["over"], found["scrolled"]) == ([], [])
    (tmp_path / "page.html").write_text(page.replace("@page {", f"@page {{ size: {paper};"))
    chromium("--no-pdf-header-footer", f"--print-to-pdf={tmp_path}/page.pdf", f"file://{tmp_path}/page.html")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) <= 4


@pytest.mark.parametrize(("theme", "groups"), [("light", 12), ("dark", 12), ("light", 60)])  # 60 groups are a long list
def test_axe_has_no_serious_finding(tmp_path, theme, groups):
    page = page_of(tmp_path / "run", groups)
    axe = pytest.importorskip("axe_core_python.base", reason="axe-core-python is not installed")
    if theme == "dark":
        page = page.replace("@media (prefers-color-scheme: dark)", "@media all")
    script = axe.AXE_SCRIPT
    found = answer(
        tmp_path,
        page.replace("</body>", f"<script>{script}</script></body>"),
        "const found = await axe.run(); return found.violations.map(v => [v.impact, v.id, v.nodes[0].html]);",
    )
    assert [each for each in found if each[0] in ("serious", "critical")] == []


def test_details_and_scroll_boxes_take_the_keyboard(tmp_path, page):
    script = """
    const boxes = [...document.querySelectorAll(".scroll, .widths.long, pre, summary")];
    return boxes.filter(e => e.tabIndex < 0).map(e => e.outerHTML.slice(0, 60));
    """
    assert answer(tmp_path, page, script) == []


def test_a_page_of_a_large_run_is_small(tmp_path):
    page = write_report(make_run(tmp_path / "run", groups=200))
    assert page.stat().st_size < 1_000_000
