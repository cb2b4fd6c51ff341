"""The report in a real browser: headless Chromium opens it, and a pointer walks over the latent plane."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ppvae.report import write_report
from ppvae.runs import Recipe, train

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)

# Runs at the end of a copy of the page: what a pointer, a key and a picture do is written where the test can read it.
PROBE = """
<script>
window.addEventListener("load", function () {
  const said = [], plane = document.getElementById("manifold-plane");
  const where = document.getElementById("manifold-where"), image = document.getElementById("manifold-image");
  const pixels = function () { return Array.from(image.getContext("2d").getImageData(0, 0, 8, 8).data).join(","); };
  const box = plane.getBoundingClientRect();
  const move = function (x, y) {
    plane.dispatchEvent(new PointerEvent("pointermove",
      {clientX: box.left + x * box.width, clientY: box.top + y * box.height, bubbles: true}));
    said.push(where.textContent + "|" + pixels().length + "|" + pixels().split(",").reduce((a, b) => a + Number(b), 0));
  };
  move(0.25, 0.25); move(0.75, 0.75);
  plane.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
  said.push(where.textContent);
  const broken = Array.from(document.images).filter((i) => !i.complete || i.naturalWidth === 0).length;
  const silent = Array.from(document.images).filter((i) => !i.alt).length;
  document.body.setAttribute("data-probe", [said.join(";"), document.images.length, broken, silent,
    document.documentElement.scrollWidth, window.innerWidth, performance.now()].join("#"));
});
</script>
"""


class _Probe(HTMLParser):
    found = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found = dict(attrs).get("data-probe") or self.found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    recipe = Recipe.from_dict(
        {
            "model": {"name": "bernoulli-vae", "latent_dim": 2, "hidden": [16]},
            "data": {"source": "digits", "num_train": 300},
            "training": {"num_epochs": 3, "compile": "eager"},
        }
    )
    run = train(recipe, folder / "run", progress=False)
    report = Path(write_report(run))
    copy = folder / "probed.html"
    copy.write_text(report.read_text(encoding="utf-8").replace("</body>", PROBE + "</body>"), encoding="utf-8")
    return copy


def browse(page: Path, profile: Path, width: int, *options: str) -> tuple[list[str], list[str]]:
    """What the probe wrote, by field, and what the browser said on its console."""
    assert BROWSER is not None
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    words += ["--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"]
    words += [f"--user-data-dir={profile}", f"--window-size={width},2000", "--virtual-time-budget=5000", *options]
    done = subprocess.run(
        [BROWSER, *words, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    probe = _Probe()
    probe.feed(done.stdout)
    assert probe.found, done.stderr[-2000:]
    # The probe reads the canvas back, which Chromium has an advice about; the page itself does not.
    lines = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "willReadFrequently" not in line]
    return probe.found.split("#"), lines


def test_the_plane_answers_the_pointer_and_nothing_fails(page: Path, tmp_path: Path) -> None:
    (said, images, broken, silent, *_), console = browse(page, tmp_path, 1200)
    first, second, key = said.split(";")
    assert first != second
    z = [
        tuple(map(float, re.findall(r"[-−]?\d+\.\d+", text.split("|")[0].replace("−", "-"))))
        for text in (first, second)
    ]
    assert z[0][0] < z[1][0]  # to the right
    assert z[0][1] > z[1][1]  # down
    assert first.split("|")[2] != second.split("|")[2]  # another picture
    assert key != second.split("|")[0]
    assert int(images) > 3
    assert (int(broken), int(silent)) == (0, 0)
    assert console == []


def test_a_phone_needs_no_sideways_scrolling(page: Path, tmp_path: Path) -> None:
    (*_, width, inner, _), console = browse(page, tmp_path, 500, "--force-dark-mode")
    assert int(width) <= int(inner)
    assert console == []


def test_a_failing_page_is_noticed(page: Path, tmp_path: Path) -> None:
    """The console check can fail."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text(encoding="utf-8").replace("<body", "<script>undefined_name;</script><body", 1))
    _, console = browse(broken, tmp_path / "profile", 1200)
    assert any("undefined_name" in line for line in console)
