"""The page's server without a browser: where it listens, and what it refuses.

    python -m pytest -m browser tests/demo/test_page.py

Needs the extra `demo`.
"""

import json
import socket
import threading
import urllib.error
import urllib.request

import pytest

from lpd_jax.demo import studio as studios
from lpd_jax.errors import InputError

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def address(studio):
    from lpd_jax.demo.page import serve

    return serve(studio, "127.0.0.1", 0, upload_mb=1, wait=False)


def post(url, body, kind):
    """Status and text of an answer."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def send_file(address, size):
    head = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    body = head.encode() + bytes(size) + b"\r\n--x--\r\n"
    return post(f"{address}gradio_api/upload", body, "multipart/form-data; boundary=x")[0]


def test_it_listens_on_its_host_alone(address):
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), 5):
        pass
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), 5):
        pass


def test_a_taken_port_is_one_sentence(address, studio):
    from lpd_jax.demo.page import serve

    port = int(address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(InputError, match=r"choose another --config\.demo\.port"):
        serve(studio, "127.0.0.1", port, upload_mb=1, wait=False)


def test_uploads_are_bounded(address):
    assert send_file(address, 2**19) == 200
    assert send_file(address, 2**21) == 413


def test_clicks_that_wait_are_bounded(address, studio, monkeypatch):
    free, whole = threading.Event(), studios.shown

    def held(*args):
        free.wait(60)
        return whole(*args)

    monkeypatch.setattr(studios, "shown", held)
    with urllib.request.urlopen(f"{address}config", timeout=60) as answer:
        config = json.load(answer)
    parts = {item["id"]: item["props"] for item in config["components"]}
    button = next(place for place in parts if parts[place].get("elem_id") == "generate")
    event = next(item for item in config["dependencies"] if [button, "click"] in item["targets"])
    body = {
        "data": [parts[place].get("value") for place in event["inputs"]],
        "fn_index": event["id"],
        "session_hash": "one",
    }
    codes = []
    for _ in range(70):
        code, text = post(
            f"{address}gradio_api/queue/join", json.dumps(body).encode(), "application/json"
        )
        codes.append(code)
    free.set()
    print(codes, text)
    assert codes.count(200) == 65 and "full" in text
