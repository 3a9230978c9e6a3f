"""The page of ``cxr serve`` in headless Chromium."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flows.http_service import Shelf, client_of, wait_for_model
from tests.tiny_model import CLASSES, film_bytes

DROP = """data => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([Uint8Array.from(data)], "dropped.png"));
  for (const name of ["dragenter", "dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(name, {dataTransfer: transfer, bubbles: true}));
}"""


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens a page; at the end nothing was complained of or asked of another server."""
    complaints: list[str] = []
    requests: list[str] = []
    tabs: list[Any] = []
    server: list[httpx.URL] = []

    def open_page(client: httpx.Client, path: str = "/", width: int = 1000) -> Any:
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        tab.goto(str(client.base_url.join(path)))
        tabs.append(tab)
        server.append(client.base_url)
        return tab

    yield open_page
    for tab in tabs:
        tab.close()
    assert [url for url in requests if not url.startswith((str(server[0]), "data:"))] == []
    # The browser tells of an answer that is an error by itself.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    shelf = Shelf(tmp_path)
    shelf.put(0)
    with client_of(shelf) as client:
        wait_for_model(client)
        yield client


def choose(tab: Any, name: str, data: bytes) -> None:
    tab.get_by_label("Drop a chest radiograph here").set_input_files(
        {"name": name, "mimeType": "image/png", "buffer": data}
    )


@pytest.mark.parametrize("width", [360, 1000])
def test_a_chosen_film_is_shown_with_bars_and_heat_map(
    open_page: Any, client: httpx.Client, width: int
) -> None:
    tab = open_page(client, width=width)
    assert tab.get_by_text("Not a medical device.").is_visible()
    assert tab.get_by_text("Network of run run-0, for the classes normal").is_visible()
    choose(tab, "chest.png", film_bytes(1))
    tab.get_by_role("heading", name="Most probable").wait_for()
    answer = client.post("/predict", files={"file": ("film.png", film_bytes(1))}).json()
    assert tab.get_by_role("heading", level=2).inner_text().endswith(answer["decision"])
    for name in CLASSES:
        bar = tab.get_by_role("meter", name=name)
        calibrated = answer["calibrated_probabilities"][name]
        assert abs(bar.evaluate("bar => bar.value") - calibrated) < 1e-6
        assert tab.get_by_text(f"{calibrated:.3f}").first.is_visible()
    assert not tab.locator("#mark").is_visible()
    assert tab.get_by_text("Nothing is known of its heat maps.").is_visible()
    sizes = "[...document.querySelectorAll('img')].map(image => image.naturalWidth)"
    tab.wait_for_function(f"{sizes}.every(width => width === 256)")
    assert tab.evaluate(sizes) == [256, 256]
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize(
    ("rules", "heading", "told"),
    [
        ({"abstain_below": 1.1}, "no class is probable enough", "below the one from which"),
        ({"outlier_above": 0.0}, "this is unlike the films", "means nothing, however sure"),
    ],
)
def test_a_film_without_an_answer_is_marked_as_such(
    open_page: Any, tmp_path: Path, rules: dict[str, float], heading: str, told: str
) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(0, **rules)
    with client_of(shelf) as client:
        wait_for_model(client)
        tab = open_page(client)
        choose(tab, "cat.png", film_bytes(1))
        tab.get_by_role("heading", name="No answer").get_by_text(heading).wait_for()
        assert told in tab.locator("#mark").inner_text()


def test_a_film_may_be_dropped_anywhere_on_the_page(open_page: Any, client: httpx.Client) -> None:
    tab = open_page(client)
    tab.evaluate(DROP, list(film_bytes(2)))
    tab.get_by_role("heading", name="Most probable").wait_for()
    assert tab.get_by_role("status").inner_text() == "dropped.png"
    assert "over" not in tab.locator("#drop").get_attribute("class").split()


def test_the_first_key_press_reaches_the_file_and_an_error_is_told(
    open_page: Any, client: httpx.Client
) -> None:
    tab = open_page(client)
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.id") == "film"
    choose(tab, "<b>notes</b>.txt", b"no image")
    tab.get_by_role("status").get_by_text("cannot be decoded").wait_for()
    assert "'b>.txt': cannot be decoded" in tab.get_by_role("status").inner_text()
    assert not tab.locator("#result").is_visible()


def test_a_key_is_asked_for_and_the_film_is_not_forgotten(open_page: Any, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    shelf.put(0)
    with client_of(shelf, api_key="sesame") as client:
        wait_for_model(client)
        tab = open_page(client)
        assert not tab.get_by_label("Key of this service").is_visible()
        choose(tab, "chest.png", film_bytes(1))
        tab.get_by_label("Key of this service").fill("sesame")
        tab.keyboard.press("Enter")
        tab.get_by_role("heading", name="Most probable").wait_for()
        assert not tab.get_by_label("Key of this service").is_visible()


def test_the_documentation_is_drawn_without_another_server(
    open_page: Any, client: httpx.Client
) -> None:
    tab = open_page(client, "/docs")
    tab.get_by_text("/predict").first.click()
    tab.get_by_role("button", name="Try it out").click()
    assert tab.locator("input[type=file]").count() == 1
