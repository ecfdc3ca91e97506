import json
import re

import pytest
from PIL import Image

from lpd_jax.evaluation.report import MEANINGS, table, write_report

REPORT = {
    "tokenizer": {"psnr_db": 28.91234, "codebook_usage": 0.984},
    "samples": {"steps": 10, "class_accuracy": 0.9876},
    "frechet_floor": 1.65,
    "seconds": {"train": 12.5},
    "device": "cpu <two cores>",
    "seed": 0,
}


@pytest.fixture
def written(tmp_path):
    picture = tmp_path / "pictures" / "sample grid.png"
    picture.parent.mkdir()
    Image.new("RGB", (4, 4), "red").save(picture)
    page = write_report(tmp_path / "report", REPORT, {"Samples & more": picture})
    return page.parent, page


def test_json_keeps_every_figure(written):
    directory, _ = written
    assert json.loads((directory / "report.json").read_text()) == REPORT


def test_markdown_links_the_pictures(written):
    directory, _ = written
    text = (directory / "report.md").read_text()
    assert "| `tokenizer.psnr_db` | 28.91 |" in text and "| `seconds.train` | 12.5 |" in text
    link = re.search(r"!\[.*\]\((.*)\)", text)[1].replace("%20", " ")
    assert (directory / link).exists()


def test_html_stands_alone(written):
    _, page = written
    text = page.read_text()
    assert "data:image/png;base64,iVBOR" in text and "Samples &amp; more" in text
    assert "cpu &lt;two cores&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)


def test_writing_again_replaces(written, tmp_path):
    directory, _ = written
    write_report(directory, {"seed": 1}, {})
    assert json.loads((directory / "report.json").read_text()) == {"seed": 1}
    assert sorted(f.name for f in directory.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_table_explains_the_figures():
    lines = table(REPORT).splitlines()
    assert len(lines) == 5
    assert lines[2].split()[:2] == ["samples.steps", "10"]
    assert lines[2].endswith(MEANINGS["samples.steps"])
    assert len({line.index(MEANINGS[line.split()[0]]) for line in lines}) == 1
