import itertools
import json

import numpy as np
import pytest

from lpd_jax.data.folder import Folder
from lpd_jax.data.pipeline import (
    batches,
    choose_view,
    flip_or_not,
    in_turn,
    random_crop,
    to_unit,
)
from lpd_jax.data.sources import Arrays
from lpd_jax.errors import InputError
from lpd_jax.models.tokenizer import to_uint8


def _source(size=40):
    return Arrays({"index": np.arange(size), "codes": np.arange(2 * size).reshape(size, 2, 1)})


def _indices(count, **arguments):
    arguments = {"batch_size": 8, "seed": 1} | arguments
    stream = iter(batches(arguments.pop("source", _source()), **arguments))
    return [batch["index"].tolist() for batch in itertools.islice(stream, count)]


def test_every_epoch_holds_every_record_once_in_a_new_order():
    stream = np.concatenate(_indices(15)).reshape(3, 40)
    for epoch in stream:
        assert sorted(epoch) == list(range(40))
    assert not any((a == b).all() for a, b in itertools.combinations(stream, 2))


def test_epochs_join_without_loss_when_the_batch_does_not_divide():
    stream = np.concatenate(_indices(21, source=_source(42)))
    for epoch in stream.reshape(4, 42):
        assert sorted(epoch) == list(range(42))


def test_seed_decides_the_order():
    assert _indices(3) == _indices(3)
    assert _indices(3) != _indices(3, seed=2)


def test_unshuffled_epoch_is_in_order():
    assert _indices(99, shuffle=False, num_epochs=1) == np.arange(40).reshape(5, 8).tolist()


@pytest.mark.parametrize("count", [2, 4])
def test_processes_read_the_rows_of_the_same_global_batches(count):
    alone = _indices(12)
    shares = [_indices(12, rows=rows) for rows in np.arange(8).reshape(count, -1)]
    for batch, *parts in zip(alone, *shares, strict=True):
        assert batch == list(itertools.chain(*parts))


def _views(rows):
    stream = batches(_source(), batch_size=8, seed=3, transform=choose_view, rows=rows)
    return {
        (number, index): code[0]
        for number, batch in enumerate(itertools.islice(stream, 10))
        for index, code in zip(batch["index"], batch["codes"], strict=True)
    }


def test_random_views_do_not_depend_on_the_number_of_processes():
    alone = _views(None)
    assert alone == _views([0, 1, 5]) | _views([2, 3, 4, 6, 7])
    assert {code % 2 for code in alone.values()} == {0, 1}
    assert all(code // 2 == index for (_, index), code in alone.items())


def test_iterator_resumes_where_it_was_saved():
    dataset = batches(_source(), batch_size=8, seed=1, transform=choose_view)
    iterator = iter(dataset)
    for _ in range(7):
        next(iterator)
    position = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(5)]
    restored = iter(dataset)
    restored.set_state(position)
    for want in expected:
        got = next(restored)
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])


def test_error_of_a_record_reaches_the_reader(tmp_path):
    (tmp_path / "auk").mkdir()
    for i in range(4):
        (tmp_path / "auk" / f"{i}.png").write_bytes(b"broken")
    with pytest.raises(InputError, match="cannot be read as an image"):
        next(iter(batches(Folder(tmp_path, "all", 8), batch_size=2)))


def test_bad_batch_sizes():
    for size in (0, 64):
        with pytest.raises(InputError, match="cannot be taken from a dataset of 40"):
            batches(_source(), batch_size=size)


def test_flip_mirrors_half_of_the_images():
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    rng = np.random.default_rng(0)
    flips = 0
    for _ in range(200):
        flipped = flip_or_not({"image": image, "label": 1}, rng)["image"]
        flips += not (flipped == image).all()
        assert (flipped == image).all() or (flipped == image[:, ::-1]).all()
    assert 70 < flips < 130


def test_pixel_ranges():
    values = np.arange(256, dtype=np.uint8)
    unit = to_unit(values)
    assert unit.dtype == np.float32 and unit.min() == -1 and unit.max() == 1
    np.testing.assert_array_equal(to_uint8(unit), values)
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 3.0])), [0, 255])


class _Numbered:
    """Ten images of several shapes, whose pixels say which they are and where."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        rows, columns = np.mgrid[: 8 + i, : 20 - i]
        image = np.stack([np.full_like(rows, i), rows, columns], -1).astype(np.uint8)
        return {"image": image, "index": i}


def test_crops_and_flips_depend_on_the_seed_and_the_place_in_the_stream_alone():
    augment = in_turn(random_crop(8, 1.0), flip_or_not)

    def first(count, **how):
        stream = iter(batches(_Numbered(), batch_size=4, transform=augment, **how))
        return [next(stream)["image"] for _ in range(count)], stream

    alone, _ = first(10)
    assert alone[0].shape == (4, 8, 8, 3)
    parts = [first(10, rows=rows, num_threads=1)[0] for rows in ([0, 3], [1, 2])]
    for whole, outer, inner in zip(alone, *parts, strict=True):
        np.testing.assert_array_equal(whole[[0, 3]], outer)
        np.testing.assert_array_equal(whole[[1, 2]], inner)
    _, stream = first(3)
    state = stream.get_state()
    _, again = first(1)
    again.set_state(state)
    np.testing.assert_array_equal(next(again)["image"], alone[3])
    flat = np.concatenate(alone)
    views = {x.tobytes() for x in flat}
    assert len(views) > 2 * len({int(x[0, 0, 0]) for x in flat})  # of an image in four epochs
    assert not (first(10, seed=1)[0][0] == alone[0]).all()
