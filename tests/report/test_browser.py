"""The report in a real browser: headless Chromium opens it at several widths, and a pointer walks over the plane."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ppvae.report import write_report
from ppvae.report.html.compare import write_comparison
from ppvae.runs import Recipe, train
from ppvae.runs.evaluation.evaluation import Method, evaluate

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

AUDIT = "<script>" + Path(__file__).with_name("audit.js").read_text(encoding="utf-8") + "</script>"
# What a pointer, a key and a picture do, in a page that is audited.
WALK = """
<script>
window.addEventListener("load", function () {
  const said = [], plane = document.getElementById("manifold-plane");
  const where = document.getElementById("manifold-where"), image = document.getElementById("manifold-image");
  const pixels = function () { return Array.from(image.getContext("2d").getImageData(0, 0, 8, 8).data); };
  const box = plane.getBoundingClientRect();
  const move = function (x, y) {
    plane.dispatchEvent(new PointerEvent("pointermove",
      {clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true}));
    said.push(where.textContent + "|" + pixels().reduce((a, b) => a + b, 0));
  };
  move(0.25, 0.25); move(0.75, 0.75);
  plane.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  said.push(where.textContent);
  // Onto the dot of the first datum, which is then named and shown.
  const data = JSON.parse(document.getElementById("manifold-data").textContent), at = data.points[0], r = data.range;
  move((at[0] - r[0][0]) / (r[0][1] - r[0][0]), (r[1][1] - at[1]) / (r[1][1] - r[1][0]));
  const datum = document.getElementById("manifold-datum"), which = document.getElementById("manifold-which");
  said.push(which.textContent + "|" + datum.hidden);
  const button = document.querySelector("button.copy");
  button.click();
  setTimeout(function () {
  said.push(button.textContent + "|" + window.getSelection().toString());
  parent.postMessage(JSON.stringify({said: said}), "*");
  }, 500);
});
</script>
"""
# Pages in frames: a window of Chromium itself is never narrower than 500 pixels. What each says of itself is kept.
FRAMES = """<!doctype html><body style="margin:0"><script>
const found = {{}};
window.addEventListener("message", function (event) {{
  const frame = Array.from(document.querySelectorAll("iframe")).find((one) => one.contentWindow === event.source);
  found[frame.title] = Object.assign(found[frame.title] || {{}}, JSON.parse(event.data));
  document.body.setAttribute("data-found", JSON.stringify(found));
}});
</script>{frames}</body>"""
FRAME = '<iframe src="{address}" title="{width}" style="border:0;width:{width}px;height:3000px"></iframe>'


class _Found(HTMLParser):
    found = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = dict(attrs).get("data-found") or self.found


Found = dict[str, Any]


def browse(
    page: Path, folder: Path, widths: Sequence[int], *options: str, extra: str = ""
) -> tuple[dict[int, Found], list[str]]:
    """What the audit found at each of the widths, and what the browser said on its console."""
    assert BROWSER is not None
    folder.mkdir(exist_ok=True)
    copy = folder / "page.html"
    copy.write_text(page.read_text(encoding="utf-8").replace("</body>", AUDIT + extra + "</body>"), encoding="utf-8")
    frames = folder / "frames.html"
    each = "".join(FRAME.format(address=copy.as_uri(), width=width) for width in widths)
    frames.write_text(FRAMES.format(frames=each), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    words += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1500,2000", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *words, *options, "--dump-dom", frames.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    parser = _Found()
    parser.feed(done.stdout)
    assert parser.found, done.stderr[-2000:]
    # The audit reads the canvas back, which Chromium has an advice about; the page itself does not.
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "willReadFrequently" not in line]
    return {int(width): one for width, one in json.loads(parser.found).items()}, lines


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of a run with two latents, of one with four, and of both."""
    folder, runs = tmp_path_factory.mktemp("browser"), []
    for latent_dim in (2, 4):
        recipe = Recipe.from_dict(
            {
                "model": {"name": "bernoulli-vae", "latent_dim": latent_dim, "hidden": [16]},
                "data": {"source": "digits", "num_train": 300, "binarize": "static"},
                "training": {"num_epochs": 3, "compile": "eager"},
            }
        )
        run = train(recipe, folder / f"run{latent_dim}", progress=False)
        methods = [Method.parse(f"importance-sampling:num_samples={count}") for count in (20, 200)]
        evaluate(run, methods, num_data=50, progress=False, say=lambda line: None)
        runs.append(run)
    return {
        "two": Path(write_report(runs[0])),
        "four": Path(write_report(runs[1], chains_for=2)),
        "both": Path(write_comparison(runs)),
    }


WIDTHS = (1400, 1010, 880, 660, 390)


@pytest.mark.parametrize("name", ["two", "four", "both"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_page_can_be_read(pages: dict[str, Path], name: str, dark: bool, tmp_path: Path) -> None:
    page = pages[name]
    assert page.stat().st_size < 5e6
    # In the dark it has other colours, of the same texts: the drawings for a desk and those for a phone.
    widths = (WIDTHS[0], WIDTHS[-1]) if dark else WIDTHS
    found, console = browse(page, tmp_path, widths, *(["--force-dark-mode"] if dark else []))
    assert console == []
    assert tuple(sorted(found, reverse=True)) == widths
    for width, seen in found.items():
        assert seen["dark"] is dark and seen["inner"] == width
        assert seen["texts"] > 100
        assert seen["size"] >= 11, f"at {width}: {seen['small']!r} has {seen['size']:.1f} px"
        assert seen["contrast"] >= 4.5, f"at {width}: {seen['faint']!r} has a contrast of {seen['contrast']:.2f}"
        assert seen["width"] <= width
        assert seen["broken"] == 0


def test_a_page_opens_at_once(pages: dict[str, Path], tmp_path: Path) -> None:
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>x</title><body>x</body>", encoding="utf-8")
    before, _ = browse(empty, tmp_path / "empty", [1400])
    found, _ = browse(pages["two"], tmp_path / "two", [1400])
    assert found[1400]["loaded"] < before[1400]["loaded"] + 1000


def test_the_plane_answers_the_pointer(pages: dict[str, Path], tmp_path: Path) -> None:
    found, console = browse(pages["two"], tmp_path, [1200], extra=WALK)
    first, second, key, _, datum, copied = found[1200]["said"]
    numbers = [re.findall(r"[-−]?\d+\.\d+", text.split("|")[0]) for text in (first, second)]
    z = [[float(number.replace("−", "-")) for number in pair] for pair in numbers]
    assert z[0][0] < z[1][0]  # to the right
    assert z[0][1] > z[1][1]  # down
    assert first.split("|")[1] != second.split("|")[1]  # another picture
    assert key != second.split("|")[0]
    assert re.fullmatch(r"datum \d+, label \d\|false", datum)
    assert copied.startswith("cop") and ("ppvae" in copied or copied.startswith("copied"))
    assert console == []


def test_a_failing_page_is_noticed(pages: dict[str, Path], tmp_path: Path) -> None:
    """Each check can fail."""
    text = pages["two"].read_text(encoding="utf-8")
    ill = '<script>undefined_name;</script><p style="font-size:9px;color:#999">faint</p>'
    ill += '<div style="width:2000px">wide</div>'
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<main>", "<main>" + ill, 1), encoding="utf-8")
    found, console = browse(broken, tmp_path / "frames", [700])
    seen = found[700]
    assert any("undefined_name" in line for line in console)
    assert (seen["small"], seen["faint"]) == ("faint", "faint")
    assert seen["size"] == 9 and seen["contrast"] < 4.5 and seen["width"] > 700
