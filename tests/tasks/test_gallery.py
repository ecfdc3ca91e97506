"""What was sampled and edited, on one page: made by samplers that make noise, in no time."""

import base64
import html.parser
import io
import re

import numpy as np
import pytest
from PIL import Image

from lpd_jax.configs import digits
from lpd_jax.errors import InputError
from lpd_jax.tasks import gallery, results
from lpd_jax.viz import images as pictures


class Page(html.parser.HTMLParser):
    """Rows of a page: {result: {class: images}}, its texts, and what it would load."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.texts, self.loads, self.options, self.tag = {}, [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given, self.tag = dict(attributes), tag
        self.loads += [given[name] for name in ("src", "href") if name in given]
        if given.get("class") == "row":
            self.row = [*self.rows.values()][-1].setdefault(given["data-name"], [])
        if tag == "img":
            kind, data = given["data-src"].split(";base64,")
            assert kind in ("data:image/png", "data:image/jpeg")
            with Image.open(io.BytesIO(base64.b64decode(data))) as image:
                self.row.append((np.asarray(image), given))

    def handle_data(self, text):
        if self.tag == "h2" and text.strip():
            self.rows[text] = {}
        if self.tag == "option":
            self.options.append(text)
        self.texts.append(text)
        self.tag = ""


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def save(directory, kind, settings, names, **arrays):
    """What `sample` or `edit` leaves, as far as the page needs it."""
    directory.mkdir(parents=True)
    np.savez_compressed(directory / f"{kind}.npz", **arrays)
    sheet = Image.new("RGB", (2, 2))
    text = results.chunks(settings, np.ravel(arrays["labels"]), names)
    pictures.save_png(sheet, directory / f"{kind}.png", text)


@pytest.fixture
def config():
    return digits.get_config().lock()


@pytest.fixture
def workdir(tmp_path):
    """Two samples of which the second is large and of a hostile class, and an edit."""
    names = ("ant", "<b>bee", "cat")
    settings = {"seed": 3, "sample": {"steps": 6, "order": "halton"}}
    images, labels = noise(6, 8, 8), np.array([0, 2, 0, 2, 0, 2])
    save(tmp_path / "samples/one", "samples", settings, names, images=images, labels=labels)
    large = {"images": noise(1, 300, 150, seed=1), "labels": np.array([1])}
    other = {"seed": 4, "sample": {"steps": 6, "order": "raster"}}
    save(tmp_path / "samples/two", "samples", other, names, **large)
    edits = {
        "before": noise(2, 8, 8, seed=2),
        "images": noise(2, 2, 8, 8, seed=3),
        "labels": np.array([[0, 2], [1, 1]]),
    }
    save(tmp_path / "edits/three", "edits", settings, names, **edits)
    return tmp_path, images, edits


def test_the_page_has_every_image_under_its_class_and_needs_no_other_file(config, workdir):
    path, images, edits = workdir
    assert gallery.run(config, path) == path / "gallery.html"
    page = Page((path / "gallery.html").read_text())
    assert page.loads == []
    one, two, three = (page.rows[n] for n in ("samples/one", "samples/two", "edits/three"))
    assert list(one) == ["ant", "cat"] and list(two) == ["<b>bee"]
    np.testing.assert_array_equal([image for image, _ in one["ant"]], images[::2])
    np.testing.assert_array_equal([image for image, _ in one["cat"]], images[1::2])
    assert [about["title"] for _, about in one["cat"]] == [f"cat, image {i}" for i in (1, 3, 5)]
    assert {about["width"] for _, about in one["cat"]} == {"96"}  # enlarged
    ((thumbnail, about),) = two["<b>bee"]
    assert thumbnail.shape == (128, 64, 3) and (about["width"], about["height"]) == ("64", "128")
    assert list(three) == ["before", "ant", "<b>bee", "cat"]
    np.testing.assert_array_equal([image for image, _ in three["before"]], edits["before"])
    np.testing.assert_array_equal([image for image, _ in three["<b>bee"]], edits["images"][1])
    np.testing.assert_array_equal([image for image, _ in three["cat"]], edits["images"][0, 1:])
    assert sorted(page.options) == ["<b>bee", "all", "ant", "before", "cat"]


def test_settings_are_those_in_the_pictures_and_what_differs_comes_first(config, workdir):
    path, _, _ = workdir
    (path / "samples/one/settings.json").write_text('{"seed": 77}')
    text = (gallery.run(config, path)).read_text()
    assert "<dt>seed</dt> <dd>3</dd>" in text and "77" not in re.sub(r"base64,[^\"]*", "", text)
    before_all = text.split("samples/one</h2>")[1].split("<details>")[0]
    assert "sample.order" in before_all and "halton" in before_all
    assert "sample.steps" not in before_all and "sample.steps" in text


def test_a_part_is_shown_of_many_images_and_of_a_named_directory(config, workdir, tmp_path):
    path, _, _ = workdir
    config.gallery.update(directory=str(path / "samples/one"), per_class=2)
    page = Page(gallery.run(config, tmp_path / "elsewhere").read_text())
    assert {name: len(row) for name, row in page.rows["one"].items()} == {"ant": 2, "cat": 2}
    assert "2 of 3" in page.texts and (path / "samples/one/gallery.html").is_file()


def test_what_cannot_be_read_is_left_out_and_nothing_is_an_error(config, workdir, caplog):
    path, _, _ = workdir
    for name, content in {"samples/one": b"", "samples/two": b"PK\x03\x04"}.items():
        (path / name / "samples.npz").write_bytes(content)
    page = Page(gallery.run(config, path).read_text())
    assert list(page.rows) == ["edits/three"] and caplog.text.count("left out") == 2
    config.gallery.directory = str(path / "samples")
    with pytest.raises(InputError, match=r"no samples or edits in .*samples; make some"):
        gallery.run(config, path)
