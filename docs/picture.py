"""The picture of a report in the README: ``python docs/picture.py`` (``make picture``) makes it again from the demo.

The report of ``ppvae demo`` is opened in headless Chromium, in its light theme, and what stands at its top becomes
``docs/_static/report.png``, in at most 256 colours so that it stays small.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
OUT = Path(__file__).parent / "_static" / "report.png"
LARGEST = 300_000
"""Bytes of the picture at most: everyone who opens the README fetches it."""


def take(page: Path, out: Path, width: int, height: int) -> None:
    """Write a picture of the top of a page."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"picture: none of {', '.join(BROWSERS)} is on this machine (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        options = [f"--screenshot={shot}", f"--window-size={width},{height}", f"--user-data-dir={folder}/profile"]
        fixed = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000"]
        subprocess.run([browser, *fixed, *options, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(shot) as picture:
            small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            out.parent.mkdir(parents=True, exist_ok=True)
            small.save(out, optimize=True)
    size = out.stat().st_size
    print(f"{out}: {width} x {height}, {size / 1000:.0f} kB")
    if size > LARGEST:
        sys.exit(f"picture: more than {LARGEST // 1000} kB; try a smaller --height")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run folder with its report; without it, the demo is run")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--width", type=int, default=1200, help="pixels")
    parser.add_argument("--height", type=int, default=1300, help="pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = options.run
        if run is None:
            run = Path(folder) / "demo"
            subprocess.run([sys.executable, "-m", "ppvae", "demo", "--out", str(run)], check=True)
        take(run / "report.html", options.out, options.width, options.height)


if __name__ == "__main__":
    main()
