"""What the application promises its clients; the network is real, the bucket is a folder."""

import base64
import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from cxr_model.errors import StorageError
from flows.service import ServiceConfig, content_security_policy, create_app
from tasks.named_model import Found
from tests.flows.http_service import (
    LIMITS,
    Shelf,
    client_of,
    send,
    serving,
    wait_for_health,
    wait_for_model,
)
from tests.tiny_model import CLASSES, film_bytes


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def client(shelf: Shelf) -> Iterator[httpx.Client]:
    shelf.put(0)
    with client_of(shelf) as client:
        wait_for_model(client)
        yield client


def test_a_film_is_answered_with_probabilities_decision_and_model(
    client: httpx.Client, shelf: Shelf
) -> None:
    assert isinstance(shelf.found, Found)
    answer = send(client, film_bytes(1)).json()
    assert list(answer["probabilities"]) == CLASSES
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["decision"] == max(CLASSES, key=lambda name: answer["probabilities"][name])
    assert (answer["run_id"], answer["digest"]) == ("run-0", shelf.found.digest)
    assert answer["explanation"] is None


def test_an_unsure_answer_and_a_stranger_are_marked_and_still_have_their_figures(
    shelf: Shelf,
) -> None:
    for rules, decision in (
        ({"abstain_below": 1.1}, "abstained"),
        ({"abstain_below": 1.1, "outlier_above": 0.0}, "outlier"),
    ):
        shelf.put(0, **rules)
        with client_of(shelf) as client:
            wait_for_model(client)
            answer = send(client, film_bytes(1)).json()
        assert answer["decision"] == decision
        assert answer["abstained"] is True
        assert answer["is_outlier"] is (decision == "outlier")
        assert (answer["outlier_score"] is None) is (decision == "abstained")
        probabilities = answer["probabilities"]
        assert answer["predicted"] == max(CLASSES, key=probabilities.__getitem__)
        calibrated = answer["calibrated_probabilities"]
        assert list(calibrated) == CLASSES
        assert max(calibrated.values()) < max(probabilities.values())  # temperature 2


def test_an_explanation_comes_as_pictures_within_the_answer(client: httpx.Client) -> None:
    answer = send(client, film_bytes(1), params={"explain": "true"}).json()
    explanation = answer["explanation"]
    assert (explanation["method"], explanation["target"]) == ("grad-cam", answer["decision"])
    assert explanation["verdict"] == "Nothing is known of its heat maps."
    for picture in (explanation["film"], explanation["overlay"]):
        head, _, content = picture.partition(",")
        assert head == "data:image/jpeg;base64"
        assert Image.open(BytesIO(base64.b64decode(content))).format == "JPEG"


@pytest.mark.parametrize(
    ("request_", "status", "detail"),
    [
        ({"files": {"file": ("a.png", b"junk")}}, 422, r"'a\.png': cannot be decoded \(no known"),
        ({"files": {"file": ("a.png", b"")}}, 422, r"'a\.png': cannot be decoded"),
        ({"files": {"film": ("a.png", b"junk")}}, 422, r"file: missing; send the film as 'file'"),
        ({"data": {"file": "text"}}, 422, r"file: missing; send the film as 'file'"),
        ({"content": b"raw"}, 422, r"file: missing; send the film as 'file'"),
        ({"files": [("file", ("a", b"1")), ("file", ("b", b"2"))]}, 400, r"Too many files"),
        ({"params": {"explain": "perhaps"}}, 422, r"explain: Input should be a valid boolean"),
        (
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            r"Missing boundary",
        ),
    ],
)
def test_a_wrong_request_is_told_in_one_line(
    client: httpx.Client, request_: dict[str, Any], status: int, detail: str
) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert re.match(detail, answer.json()["detail"])
    assert "\n" not in answer.json()["detail"]


def without_length(num_bytes: int) -> Iterator[bytes]:
    """The body of a form in pieces, for a request that does not tell its length."""
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    yield from (b"x" * 1000 for _ in range(num_bytes // 1000))
    yield b"\r\n--x--\r\n"


def test_what_is_too_large_is_refused_with_and_without_its_length_told(shelf: Shelf) -> None:
    shelf.put(0)
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with client_of(shelf, max_bytes=4096) as client:
        wait_for_model(client)
        for num_bytes in (5000, 5_000_000):
            for answer in (
                send(client, b"x" * num_bytes),
                client.post("/predict", content=without_length(num_bytes), headers=headers),
            ):
                assert answer.status_code == 413
                told = "the request has more than 0.00390625 MB; send a smaller file"
                assert answer.json()["detail"] == told
            assert send(client, film_bytes(0)).status_code == 200, "the connection goes on"


def test_without_a_model_there_is_no_answer_but_a_reason(shelf: Shelf) -> None:
    with client_of(shelf) as client:
        health = wait_for_health(client, lambda health: health["error"])
        assert health == {"model": None, "error": "the shelf is empty; put a model on it"}
        assert client.get("/healthz").status_code == 503
        answer = send(client, film_bytes(0))
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["detail"] == "no model is loaded; /healthz says why"
        assert "run_id=" not in client.get("/metrics").text


def test_more_than_may_be_under_way_is_sent_away_to_come_again(shelf: Shelf) -> None:
    shelf.put(0)
    with client_of(shelf, max_under_way=0) as client:
        wait_for_model(client)
        answer = send(client, film_bytes(0))
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert answer.json()["detail"] == "0 films are under way; try again in a second"


def test_a_key_is_wanted_where_there_is_one_but_not_for_health_and_pages(shelf: Shelf) -> None:
    shelf.put(0)
    with client_of(shelf, api_key="sesamé") as client:
        wait_for_model(client)
        for headers in ({}, {"X-API-Key": "sesame"}, {"X-API-Key": ""}):
            assert send(client, film_bytes(0), headers=headers).status_code == 401
            answer = client.get("/metrics", headers=headers)
            assert answer.status_code == 401
            assert answer.json()["detail"].startswith("X-API-Key: missing or wrong; send")
        key = {"X-API-Key": "sesamé".encode()}
        assert send(client, film_bytes(0), headers=key).status_code == 200
        assert client.get("/metrics", headers=key).status_code == 200
        for path in ("/", "/docs", "/openapi.json", "/healthz"):
            assert client.get(path).status_code == 200


def test_the_key_is_not_in_what_is_printed_of_the_settings() -> None:
    assert "sesame" not in repr(ServiceConfig(api_key="sesame"))


def test_requests_and_batches_are_counted_for_prometheus(
    client: httpx.Client, shelf: Shelf
) -> None:
    assert isinstance(shelf.found, Found)
    for data in (film_bytes(0), film_bytes(1), b"junk"):
        send(client, data)
    client.get("/wp-login.php")
    text = client.get("/metrics").text
    for line in (
        'cxr_requests_total{path="/predict",status="200"} 2.0',
        'cxr_requests_total{path="/predict",status="422"} 1.0',
        'cxr_requests_total{path="other",status="404"} 1.0',
        'cxr_request_seconds_count{path="/predict"} 3.0',
        "cxr_batch_size_sum 2.0",
        f'cxr_model_info{{digest="{shelf.found.digest}",run_id="run-0"}} 1.0',
    ):
        assert line in text
    assert "wp-login" not in text


def test_the_interface_tells_of_the_file_the_key_and_the_errors(client: httpx.Client) -> None:
    told = client.get("/openapi.json").json()
    digest = told["components"]["schemas"]["PredictionBody"]["properties"]["digest"]
    assert digest["description"] == "SHA-256 of the network's weights."
    predict = told["paths"]["/predict"]["post"]
    assert "multipart/form-data" in predict["requestBody"]["content"]
    assert {"200", "401", "413", "422", "503"} <= set(predict["responses"])
    assert predict["security"] == [{"APIKeyHeader": []}]


def test_the_documentation_needs_no_other_server(client: httpx.Client) -> None:
    page = client.get("/docs").text
    addresses = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert len(addresses) >= 3
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    assert "https://" not in page


def test_the_page_may_load_nothing_but_from_its_own_server(client: httpx.Client) -> None:
    answer = client.get("/")
    assert "Not a medical device." in answer.text
    policy = answer.headers["Content-Security-Policy"]
    assert policy == content_security_policy(answer.text)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in re.sub(r"https?:", "", policy)
    assert re.findall(r"<(?:script|style) ", answer.text) == []


def test_another_model_takes_over_and_a_broken_one_does_not(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put(0)
    app = create_app(shelf.served(refresh_s=0.01), ServiceConfig(limits=LIMITS))
    with serving(app) as client:
        wait_for_model(client)
        first = send(client, film_bytes(1)).json()
        found = shelf.put(1)
        health = wait_for_health(client, lambda health: health["model"]["run_id"] == "run-1")
        assert health["error"] is None
        second = send(client, film_bytes(1)).json()
        assert second["digest"] == found.digest != first["digest"]
        assert second["probabilities"] != first["probabilities"]

        broken = shelf.put(2)
        broken.fetch().weights.write_bytes(b"no weights")
        told = wait_for_health(client, lambda health: health["error"])["error"]
        assert told.startswith("the model cannot be loaded (SafetensorError: ")
        assert told.endswith("; promote another")
        shelf.found = StorageError("the shelf is away; fetch it back")
        health = wait_for_health(client, lambda health: health["error"] == str(shelf.found))
        assert health["model"]["run_id"] == "run-1"
        assert send(client, film_bytes(1)).json() == second
        shelf.put(1)
        wait_for_health(client, lambda health: not health["error"])
        assert caplog.text.count("the shelf is away") == 1  # not at every look
