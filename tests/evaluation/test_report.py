import json
import re

import pytest
from PIL import Image

from lpd_jax.evaluation.figures import DIGITS_BARS, FIGURES, ratio, rows, show
from lpd_jax.evaluation.report import CLASSES_SHOWN, table, write_report

NAN = float("nan")
REPORT = {
    "tokenizer": {"psnr_db": 28.19294997208137, "codebook_usage": 0.79},
    "classifier": {"heldout_accuracy": 0.9866},
    "samples": {
        "steps": 10,
        "class_accuracy": 0.98765,
        "frechet": 3.65,
        "frechet_ratio": 2.21,
        "settings": {"order": "locality", "labels": [], "quantize": "", "top_k": 0},
    },
    "frechet_floor": 1.65,
    "classes": {
        "good|ish": {"count": 3, "accuracy": 1.0, "heldout_accuracy": 1.0},
        "<bad>": {"count": 4, "accuracy": 0.25, "heldout_accuracy": NAN},
    },
    "likelihood": [
        {"order": order, "repulsion": value, "steps": n, "bits_per_token": bits, "images": 9}
        for order, value, n, bits in (
            ("locality", 2.0, 64, 2.5),
            ("locality", 2.0, 6, 2.75),
            ("random", None, 64, 2.25),
            ("random", None, 6, 2.8125),
        )
    ],
    "bars": DIGITS_BARS,
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


def test_json_keeps_every_figure_unrounded(written):
    directory, _ = written
    found = json.loads((directory / "report.json").read_text(), parse_constant=pytest.fail)
    assert found["classes"]["<bad>"].pop("heldout_accuracy") is None
    expected = json.loads(json.dumps(REPORT))
    del expected["classes"]["<bad>"]["heldout_accuracy"]
    assert found == expected


def test_each_figure_has_its_bar_and_a_verdict():
    found = {row.name: (row.value, row.bar, row.verdict) for row in rows(REPORT)["tokenizer"]}
    assert found == {
        "PSNR": ("28.2 dB", "≥ 26.0 dB", "good"),
        "codebook used": ("79.0 %", "≥ 80.0 %", "short"),
    }
    (over,) = (row for row in rows(REPORT)["samples"] if row.name == "Fréchet over floor")
    assert (over.value, over.bar, over.verdict) == ("2.21", "≤ 2.5", "good")


@pytest.mark.parametrize("key", DIGITS_BARS)
def test_a_bar_is_good_from_itself_on(key):
    (figure,) = (group[key] for group in FIGURES.values() if key in group)
    section, name = key.split(".")
    worse = -1e-9 if not figure.at_most else 1e-9
    for value, verdict in ((0, "good"), (worse, "short"), (-worse, "good"), (NAN, "")):
        report = {section: {name: DIGITS_BARS[key] + value}, "bars": DIGITS_BARS}
        ((row,),) = rows(report).values()
        assert row.verdict == verdict


def test_other_data_are_beside_real_images_and_have_no_verdict():
    report = {key: value for key, value in REPORT.items() if key != "bars"}
    found = {row.name: (row.value, row.real) for row in rows(report)["samples"]}
    assert found["class accuracy"] == ("98.8 %", "98.7 %")
    assert found["Fréchet distance"] == ("3.65", "1.65")
    assert "verdict" not in table(report) and "bar" not in table(report)


def test_markdown_has_figures_classes_settings_then_pictures(written):
    directory, _ = written
    text = (directory / "report.md").read_text()
    assert re.findall("^#+ (.*)", text, re.M) == [
        "Report",
        "Tokenizer",
        "Samples",
        "Classes",
        "Likelihood: bits per token of 9 held-out images by order and steps (* least)",
        "Settings",
        "Samples & more",
    ]
    assert "| PSNR | 28.2 dB | ≥ 26.0 dB | good | held-out images" in text
    assert text.index("| <bad> | 4 | 25.0 % | - |") < text.index("| good\\|ish | 3 | 100.0 %")
    assert "| order \\ steps | 64 | 6 |\n| --- | ---: | ---: |" in text
    assert "| locality 2 | 2.500 | 2.750 * |\n| random | 2.250 * | 2.812 |" in text
    assert "| order | locality |" in text and "| top_k | 0 |" in text
    assert "quantize" not in text and "labels" not in text
    assert "| seconds.train | 12.5 |" in text
    link = re.search(r"!\[.*\]\((.*)\)", text)[1].replace("%20", " ")
    assert (directory / link).exists()


def test_html_stands_alone_and_begins_with_the_figures(written):
    _, page = written
    text = page.read_text()
    assert "data:image/png;base64,iVBOR" in text and "Samples &amp; more" in text
    assert "cpu &lt;two cores&gt;" in text and "<td>&lt;bad&gt;</td>" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert text.index("28.2 dB") < text.index("<td>&lt;bad&gt;") < text.index("<img")
    assert '<td class="short">short</td>' in text and '<td class="good">good</td>' in text
    assert text.count("<tr>") == text.count("</tr>") and text.count("<table>") == 5


def test_of_many_classes_the_worst_are_shown(tmp_path):
    classes = {
        f"class {i}": {"count": 1, "accuracy": i / 100, "heldout_accuracy": 1.0} for i in range(99)
    }
    write_report(tmp_path, {"classes": classes}, {})
    text = (tmp_path / "report.md").read_text()
    assert "## The worst of 99 classes" in text
    assert len(re.findall(r"^\| class \d", text, re.M)) == CLASSES_SHOWN
    assert "Settings" not in text
    assert len(json.loads((tmp_path / "report.json").read_text())["classes"]) == 99
    assert table({"classes": classes}).endswith("class 0 0.0 %, class 1 1.0 %, class 2 2.0 %")


def test_writing_again_replaces(written, tmp_path):
    directory, _ = written
    write_report(directory, {"seed": 1}, {})
    assert json.loads((directory / "report.json").read_text()) == {"seed": 1}
    assert sorted(f.name for f in directory.iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]


def test_the_table_is_short_rounded_and_aligned():
    assert table(REPORT).splitlines() == [
        "tokenizer        value  bar        verdict",
        "PSNR           28.2 dB  ≥ 26.0 dB  good",
        "codebook used   79.0 %  ≥ 80.0 %   short",
        "",
        "samples              value  real images  bar       verdict",
        "steps                   10",
        "class accuracy      98.8 %       98.7 %  ≥ 97.0 %  good",
        "Fréchet distance      3.65         1.65",
        "Fréchet over floor    2.21               ≤ 2.5     good",
        "",
        "likelihood of 9 held-out images: 2.250 bits per token at best (random, 64 steps)",
        "worst of 2 classes: <bad> 25.0 %, good|ish 100.0 %",
    ]


def test_what_could_not_be_measured_is_a_dash():
    report = {
        "samples": {"class_accuracy": NAN, "frechet": None},
        "classes": {"0": {"count": 1, "accuracy": NAN, "heldout_accuracy": NAN}},
        "bars": DIGITS_BARS,
    }
    assert table(report).splitlines() == [
        "samples           value  bar",
        "class accuracy        -  ≥ 97.0 %",
        "Fréchet distance      -",
    ]


def test_shown_figures_are_rounded():
    assert show(None) == show(NAN) == "-" and show(0.9866, "%") == "98.7 %"
    assert (
        show(28.19294997208137, "dB") == "28.2 dB" and show(605.81) == "606" and show(450) == "450"
    )
    assert ratio(3, 2) == 1.5 and show(ratio(1.0, 0.0)) == "-"
