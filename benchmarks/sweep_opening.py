"""How long Chromium takes to open the page of a sweep of 100 runs.

    python benchmarks/sweep_opening.py

Writes `benchmarks/results/sweep_opening.json`.
"""

from __future__ import annotations

import argparse
import http.server
import json
import queue
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any

from records import write_record

from edakari.pipeline.environment import environment
from edakari.sweeps.entries import Entry
from edakari.sweeps.table import results_of
from edakari.sweeps.writing import write_results

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
TELL = """
addEventListener("load", () => requestAnimationFrame(() => requestAnimationFrame(() => {
  const drawn = performance.now(), {responseEnd, loadEventEnd} = performance.getEntriesByType("navigation")[0];
  fetch("/", {method: "POST", body: JSON.stringify({response: responseEnd, load: loadEventEnd, drawn})});
})));
"""
RESULTS = Path(__file__).parent / "results"


def opening(folder: Path) -> dict[str, Any]:
    """How long Chromium takes to open the page of 100 runs of 20 settings: their figures are made up, the page is real.

    The browser tells its own times to a server in this process: until the page has arrived, until the load event has
    ended, and until two frames after it are drawn. The page opens from its arrival on; before, the browser starts.
    """
    runs = [made_up(folder / f"runs/{number}", f"method {number % 20}", number // 20) for number in range(100)]
    written = write_results(results_of("hundred runs", runs), folder).read_text(encoding="utf-8")
    served = written.replace("</body>", f"<script>{TELL}</script></body>").encode()
    times = [opened(folder / f"profile{number}", served) for number in range(9)]
    return {
        "runs": len(runs),
        "bytes": len(written.encode()),
        "browser": subprocess.run([CHROMIUM, "--version"], capture_output=True, text=True, check=True).stdout.strip(),
        "opening_ms": statistics.median(each["drawn"] - each["response"] for each in times),
        "median_ms": {name: statistics.median(each[name] for each in times) for name in times[0]},
        "times_ms": times,
    }


def made_up(folder: Path, method: str, seed: int) -> Entry:
    draw = random.Random(f"{method} {seed}")
    shares = {"macs": draw.uniform(0.3, 0.6), "params": draw.uniform(0.3, 0.6)}
    return Entry(
        folder=str(folder),
        settings={"method": method, "budget": "macs<=60%", "seed": seed},
        budget="macs<=60%",
        seed=seed,
        metric="top1",
        metrics={"top1": draw.uniform(0.85, 0.93), "loss": draw.uniform(0.2, 0.5)},
        dense={"top1": 0.93, "loss": 0.2},
        costs={name: share * 1e7 for name, share in shares.items()},
        dense_costs=dict.fromkeys(shares, 1e7),
        examples=40_000,
        seconds=100.0,
        random=False,
    )


def opened(profile: Path, content: bytes) -> dict[str, float]:
    """Times of a page that a browser opens as it starts, ms from its first request on; the first is the answer's."""
    told: queue.Queue[dict[str, float]] = queue.Queue()

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(content if self.path == "/" else b"")

        def do_POST(self) -> None:
            told.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--window-size=1200,900",
        )
        browser = subprocess.Popen(
            [CHROMIUM, *options, "--remote-debugging-port=0", address], stderr=subprocess.DEVNULL
        )
        try:
            return told.get(timeout=120)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=RESULTS / "sweep_opening.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = opening(Path(name))
    write_record(options.output, {"environment": environment(0), **found})


if __name__ == "__main__":
    main()
