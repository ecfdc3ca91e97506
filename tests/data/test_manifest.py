"""What a source held, and what is said when it is another one."""

import json

import pytest

from lpd_jax.data import manifest
from lpd_jax.data.manifest import Listing, Manifest

THEN = Manifest(
    ("auk", "wren"),
    {"train": 3, "heldout": 1},
    {
        "train": Listing(("auk/1.png", "wren/1.png", "wren/2.png"), (10, 20, 30)),
        "heldout": Listing(("auk/2.png",), (40,)),
    },
)


def listings(**changed):
    """THEN with other sizes; None: gone."""
    files = dict(zip(*THEN.listings["train"], strict=True)) | changed
    kept = {name: size for name, size in files.items() if size is not None}
    return THEN._replace(
        images={"train": len(kept), "heldout": 1},
        listings=THEN.listings | {"train": Listing(tuple(kept), tuple(kept.values()))},
    )


def test_it_is_kept_and_says_how_much_there_is(tmp_path):
    assert manifest.read(tmp_path) is None
    manifest.write(tmp_path, THEN)
    assert manifest.read(tmp_path) == THEN
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert about["class_names"] == ["auk", "wren"]
    sha256 = THEN.listings["train"].sha256
    assert about["splits"]["train"] == {"images": 3, "files": 3, "bytes": 60, "sha256": sha256}
    assert len({listing.sha256 for listing in THEN.listings.values()}) == 2


def test_line_breaks_in_names_are_kept(tmp_path):
    odd = THEN._replace(listings={"train": Listing(("a\nb/\u2028ü.png",), (1,))})
    manifest.write(tmp_path, odd)
    assert manifest.read(tmp_path).listings == odd.listings


@pytest.mark.parametrize(
    ("now", "forgiven", "says"),
    [
        (THEN, (), ""),
        (listings(**{"wren/1.png": None}), (), "1 file went (wren/1.png)"),
        (listings(**{"wren/1.png": None}), {"wren/1.png"}, ""),
        (listings(**{"wren/1.png": 21}), (), "1 file changed (wren/1.png)"),
        (listings(**{"wren/1.png": 21}), {"wren/1.png"}, ""),
        (
            listings(**{"auk/1.png": None, "wren/3.png": 5, "wren/4.png": 5}),
            {"wren/1.png"},
            "2 files came (wren/3.png, wren/4.png); 1 file went (auk/1.png)",
        ),
        (
            THEN._replace(class_names=("auk", "owl")),
            (),
            "1 class came (owl); 1 class went (wren)",
        ),
        (THEN._replace(images={"train": 9, "heldout": 1}), (), "there were 4 images and are 10"),
        (
            listings(**{f"wren/{i}.png": 1 for i in range(5, 9)}),
            (),
            "4 files came (wren/5.png, wren/6.png, wren/7.png, ...)",
        ),
    ],
)
def test_what_changed_is_named(now, forgiven, says):
    assert manifest.changes(THEN, now, forgiven) == says


def test_a_file_that_moves_to_the_other_split_is_none_that_changed():
    """Where splits are carved by name, a file that goes moves others."""
    now = listings(**{"wren/1.png": None, "auk/2.png": 40})
    now = now._replace(listings=now.listings | {"heldout": Listing((), ())})
    assert manifest.changes(THEN, now, {"wren/1.png"}) == ""
