"""JupyterLab as a student sees it: opened by the same command, run to the end, with equations and widgets
drawn.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from course_lib.grading import update_workbook

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
IDLE, BUSY = (f".jp-Notebook-ExecutionIndicator[data-status='{status}']" for status in ("idle", "busy"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the Debian package chromium"),
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a free port, in a fresh student folder; yields its address."""
    folder = tmp_path_factory.mktemp("workbook")
    update_workbook(sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--IdentityProvider.token=", "--allow-root"]
    command = [sys.executable, "-m", "jupyterlab", *options]
    # a workspace of its own: the user's would open whatever was open last beside the notebook
    own = tmp_path_factory.mktemp("jupyter")
    environment = dict(os.environ, PYTHONPATH=str(ROOT), JUPYTERLAB_WORKSPACES_DIR=str(own))
    environment["JUPYTER_CONFIG_DIR"] = str(own)
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/api").close()
            break
        except OSError:
            time.sleep(0.25)
    yield address
    process.terminate()
    process.wait(20)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb")))
def test_a_student_can_open_and_run_it(lab, name, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    outside = []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.on(
            "request",
            lambda r: outside.append(r.url) if "127.0.0.1" not in r.url and r.url[:4] == "http" else None,
        )
        page.goto(f"{lab}/lab/workspaces/{Path(name).stem}/tree/{name}", wait_until="load")
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
        page.wait_for_selector(".jp-StatusBar-Widget :text('| Idle')", state="attached", timeout=90_000)
        page.wait_for_timeout(2000)  # a kernel that has just connected drops what is asked of it at once
        page.click(".lm-MenuBar-itemLabel:text-is('Run')")
        page.click("text=Run All Cells")
        page.wait_for_selector(BUSY, state="attached", timeout=60_000)
        page.wait_for_selector(IDLE, state="attached", timeout=400_000)
        page.wait_for_timeout(2000)
        seen = {kind: 0 for kind in ("mjx-container, .MathJax", ".widget-slider", ".jp-RenderedImage img")}
        errors = 0
        for _ in range(60):  # cells that are out of sight are not drawn: scroll through the notebook
            seen = {kind: max(count, page.locator(kind).count()) for kind, count in seen.items()}
            errors += page.locator(
                ".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']"
            ).count()
            page.mouse.move(600, 600)
            page.mouse.wheel(0, 700)
            page.wait_for_timeout(120)
        page.screenshot(path=tmp_path / "end.png")
        browser.close()
    assert all(seen.values()), seen
    assert errors == 0
    assert [url for url in outside if url.startswith("http") and not url.startswith(lab)] == []
