"""The page in a real browser: what it answers, what it asks for, offline, and for whom it can be used

Needs Debian's or another Chromium, Playwright, and what npm brings; `make test-page` installs all but Chromium. Without
them these tests are skipped, and `make test` leaves them out anyway."""

import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import environ
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoprune.alexnet import narrow_alexnet
from pneumoprune.guard import add_guard, fit_guard, other_images
from pneumoprune.page import find_runtime, write_page
from pneumoprune.prediction import OnnxModel, _tinted, format_predictions, occlusion_map, predict_files, read_image
from pneumoprune.quantization import export_onnx, quantize_int8
from pneumoprune.synthetic import phantoms
from pneumoprune.training import TrainSettings, fit

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; `make test-page` installs it")
expect = playwright.expect
ROOT = Path(__file__).parent.parent
MODULES = ROOT / "page/node_modules"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.hard,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium"),
    pytest.mark.skipif(not (MODULES / "axe-core/axe.min.js").is_file(), reason="needs what `make page` fetches"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A network trained on phantoms, with a guard, and three drawn pictures: healthy, ill, and no X-ray"
    folder, xrays = tmp_path_factory.mktemp("page"), phantoms(400, size=64, seed=0)
    net = narrow_alexnet((8, 32, 32, 32, 32), (32, 32), planes=1, dropout=0, seed=0)
    fit(net, xrays, TrainSettings(epochs=15, lr=2e-3, batch_size=32, ema=0.8, augment=0, label_smoothing=0,
                                     progression=(), device="cpu"))
    export_onnx(net, folder / "float.onnx", size=64)
    quantize_int8(folder / "float.onnx", folder / "net.onnx", xrays)
    add_guard(folder / "net.onnx", fit_guard(xrays))
    drawn = phantoms(40, size=277, seed=7)
    pictures = [drawn.images[np.flatnonzero(drawn.labels == label)[0], 0] for label in (0, 1)]
    for name, levels in zip(("healthy.png", "ill.jpg", "letters.png"), [*pictures, other_images(277, 4)[0][2, 0]]):
        Image.fromarray(levels).save(folder / name)
    write_page(folder / "net.onnx", folder / "site", runtime=find_runtime(MODULES / "onnxruntime-web"))
    return folder


@pytest.fixture(scope="module")
def address(made):
    "Where the page is served"
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(made / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, address):
    "The page, opened in English; any other address asked for, and any error told, fails the test"
    context = browser.new_context(locale="en-GB", viewport={"width": 390, "height": 844}, has_touch=True)
    opened, asked, wrong = context.new_page(), [], []
    context.on("request", lambda request: asked.append(request.url))
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.goto(address)
    yield opened
    assert all(url.startswith((address, "blob:", "data:")) for url in asked) and asked
    assert not wrong
    context.close()


def ready(page):
    expect(page.locator("#state")).to_have_text(re.compile("ready|готова"), timeout=60_000)


def choose(page, file):
    "What the page tells of a file, when the heat map is there"
    page.evaluate("document.getElementById('ninths').hidden = true")
    page.set_input_files("#file", file)
    expect(page.locator("#ninths")).to_be_visible(timeout=120_000)
    keys = "probability", "decision", "distance", "time", "pixels"
    numbers = {key: page.inner_text(f"#told-{key}") for key in keys}
    return numbers | {"sentence": page.inner_text("#sentence")}


def test_three_drawn_pictures_get_the_answers_of_predict_and_explain(page, made):
    ready(page)
    files = [made / name for name in ("healthy.png", "ill.jpg", "letters.png")]
    expected = predict_files(files, made / "net.onnx")
    assert [row["in_domain"] for row in expected] == [True, True, False]
    for file, row in zip(files, expected):
        told = choose(page, file)
        sentence = told["sentence"].rstrip(".")
        assert sentence[0].lower() + sentence[1:] in format_predictions([row])
        assert told["probability"].startswith(f"{row['probability']:.3f}") and told["pixels"] == "277 × 277"
        assert told["distance"] == f"{row['distance']:.2f}" and float(told["time"].split()[0]) > 0
        assert told["decision"] == (row["decision"] or "none")
        shown = page.evaluate("""() => { const it = document.getElementById("heat");
            return [...it.getContext("2d").getImageData(0, 0, it.width, it.height).data] }""")
        image = read_image(file, 64)
        heat = np.asarray(_tinted(image, occlusion_map(OnnxModel(made / "net.onnx"), image), 0.65)).astype(int)
        assert np.abs(np.reshape(shown, (64, 64, 4))[..., :3] - heat).max() <= 2
        if row["decision"] == "PNEUMONIA" and "PNEUMOPRUNE_SCREENSHOT" in environ:
            page.set_viewport_size({"width": 800, "height": 1000})
            page.screenshot(path=environ["PNEUMOPRUNE_SCREENSHOT"], full_page=True)


def test_a_file_that_is_no_picture_is_told_so_in_both_languages(page, made):
    ready(page)
    (made / "text.png").write_text("no picture")
    page.set_input_files("#file", made / "text.png")
    page.wait_for_selector("#state.wrong")
    assert "neither PNG nor JPEG" in page.inner_text("#state")
    page.click("text=Русский")
    expect(page.locator("html")).to_have_attribute("lang", "ru")
    assert "Это не PNG" in page.inner_text("#state")
    assert "Не медицинское изделие" in page.inner_text(".warning") and "No medical" not in page.inner_text("body")


def test_nothing_that_a_file_says_becomes_markup(page, made):
    ready(page)
    name = "<img src=x onerror=document.title='caught'>.png"
    shutil.copy(made / "healthy.png", made / name)
    choose(page, made / name)
    assert page.inner_text("#told-file") == name and page.title() != "caught"


def test_the_page_opens_and_predicts_without_a_network(page, made):
    ready(page)
    page.evaluate("navigator.serviceWorker.ready")
    page.context.set_offline(True)
    page.reload()
    ready(page)
    assert choose(page, made / "healthy.png")["sentence"].startswith("Probability")


def test_everything_can_be_done_with_the_keyboard(page, made):
    ready(page)
    seen = []
    for _ in range(8):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert seen[:3] == ["English", "Русский", "file"] and any(text.startswith("Model card") for text in seen)
    choose(page, made / "healthy.png")
    assert page.evaluate("document.activeElement.id") == "found"  # where a screen reader goes on reading
    assert page.get_attribute("#state", "role") == "status"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "ru"])
def test_axe_finds_nothing_and_nothing_is_wider_than_a_phone(page, address, made, language, theme):
    page.emulate_media(color_scheme=theme)
    page.goto(f"{address}#{language}")
    ready(page)
    choose(page, made / "ill.jpg")
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.evaluate((MODULES / "axe-core/axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run()")
    assert [(rule["id"], [node["html"][:80] for node in rule["nodes"]]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 20
