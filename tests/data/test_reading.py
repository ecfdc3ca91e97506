"""Readers, and what they do about images that cannot be read."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from lpd_jax.data.folder import Folder
from lpd_jax.data.image_files import BadImage
from lpd_jax.data.pipeline import batches
from lpd_jax.data.reading import Workers, in_order
from lpd_jax.data.skipping import Readable, Skipped
from lpd_jax.errors import InputError

BAD = (3, 17, 18, 39)


@pytest.fixture
def folder(tmp_path):
    """40 images of one class, of which four are no images; the shade of each is its number."""
    (tmp_path / "auk").mkdir()
    for i in range(40):
        file = tmp_path / f"auk/{i:02d}.png"
        if i in BAD:
            file.write_bytes(b"no image")
        else:
            Image.new("L", (8, 8), i).save(file)
    return Folder(tmp_path, "all", 8)


def read(source, wanted, workers):
    found, bad = {}, {}
    for group in in_order([source], np.array([(0, i) for i in wanted]), workers):
        for row, place in enumerate(group.places):
            found[int(place)] = int(group.records["image"][row, 0, 0, 0])
        bad |= {place: (name, reason) for place, name, reason in group.bad}
    return found, bad


@pytest.mark.parametrize("workers", [Workers(), Workers(processes=1)], ids=["threads", "processes"])
def test_everything_is_read_in_order_and_the_bad_is_named(folder, workers):
    wanted = [*range(10, 40), *range(9)]
    found, bad = read(folder, wanted, workers)
    assert list(found) == sorted(found) and {**found} == {
        place: i for place, i in enumerate(wanted) if i not in BAD
    }
    assert [wanted[place] for place in bad] == [17, 18, 39, 3]
    assert all(
        name == str(folder.files[wanted[place]]) and "no format" in reason
        for place, (name, reason) in bad.items()
    )


def indices(source, **how):
    stream = iter(batches(source, batch_size=8, seed=1, **how))
    found = [next(stream) for _ in range(3)]
    state = json.loads(json.dumps(stream.get_state()))
    found += [next(stream) for _ in range(3)]
    again = iter(batches(source, batch_size=8, seed=1))  # by threads
    again.set_state(state)
    for batch in found[3:]:
        np.testing.assert_array_equal(next(again)["image"], batch["image"])
    return [batch["index"].tolist() for batch in found]


def test_batches_stay_whole_and_the_same_by_threads_and_by_processes(folder, tmp_path, caplog):
    listed = tmp_path / "skipped.jsonl"
    source = Readable(folder, Skipped(40, 0.1, listed))
    found = indices(source)
    asked = np.concatenate(indices(_Numbers()))
    stand_in = {3: 4, 17: 19, 18: 19, 39: 0}
    assert np.concatenate(found).tolist() == [stand_in.get(i, i) for i in asked]
    rows = [json.loads(row) for row in listed.read_text().splitlines()]
    assert sorted(row["path"] for row in rows) == [str(folder.files[i]) for i in BAD]
    assert {row["split"] for row in rows} == {"train"}
    assert all(row["reason"] for row in rows) and caplog.text.count("skipped ") == len(BAD)
    listed.unlink()
    assert indices(source, num_processes=1) == found
    assert not listed.exists() or len(listed.read_text().splitlines()) <= len(BAD)


def test_readers_that_list_in_one_file_count_together(folder, tmp_path):
    """As processes do: each comes upon some of them, and the share is of all."""
    listed = tmp_path / "skipped.jsonl"
    one, two = (Readable(folder, Skipped(40, 0.07, listed)) for _ in range(2))  # three may be
    heldout = Readable(folder, Skipped(40, 0.02, listed, "heldout"))
    one[3], two[3], heldout[3], two[17], one[17]
    rows = [json.loads(row) for row in listed.read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train", "heldout", "train", "train"]
    with pytest.raises(InputError, match=r"4 of 40 images .*see .*skipped\.jsonl"):
        one[39]
    with pytest.raises(InputError, match="4 of 40 images"):
        two[39]


class _Numbers:
    """40 records that can be read."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        return {"image": np.full((8, 8, 3), i, np.uint8), "index": np.int64(i)}


def test_too_many_bad_images_end_the_run(folder):
    source = Readable(folder, Skipped(40, 0.07))  # three
    source[3], source[17]
    with pytest.raises(InputError, match=r"^4 of 40 images cannot be read, the last .*39\.png \("):
        source[39]
    with pytest.raises(InputError, match=r"allow a larger share than reading\.bad_share=0\.07"):
        for _ in batches(Readable(folder, Skipped(40, 0.07)), batch_size=8, num_epochs=1):
            pass
    nothing = Folder.listed(folder, [folder.names[3]], folder.class_names)
    with pytest.raises(InputError, match="none of the 1 images can be read"):
        Readable(nothing, Skipped(1, 1.0))[0]


def test_a_bad_image_goes_from_process_to_process():
    error = pickle.loads(pickle.dumps(BadImage("a.png", "damaged")))
    assert (error.name, error.reason, str(error)) == (
        "a.png",
        "damaged",
        "a.png cannot be read as an image (damaged); replace or remove it.",
    )
