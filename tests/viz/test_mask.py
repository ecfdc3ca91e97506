import jax.numpy as jnp
import numpy as np
from matplotlib.colors import to_rgb

from lpd_jax.models.mask import training_mask
from lpd_jax.viz import mask


def test_the_mask_is_drawn_by_kind_and_its_groups_are_marked(tmp_path):
    step_of = np.array([0, 1, 1, 2, 2, 2])
    visible = np.asarray(training_mask(jnp.asarray(step_of)))
    figure = mask.training_mask(visible, step_of, "six tokens")
    (axes,) = figure.axes
    (drawn,) = axes.images
    colours = drawn.cmap(drawn.norm(drawn.get_array()))[..., :3]
    np.testing.assert_array_equal((colours < 1).any(-1), visible)
    # Context, queries on context, queries on queries: a colour each, and no other.
    kinds = [colours[:6, :6][visible[:6, :6]], colours[6:, :6][visible[6:, :6]]]
    kinds += [colours[6:, 6:][visible[6:, 6:]]]
    (legend,) = figure.legends
    shown = [to_rgb(patch.get_facecolor()) for patch in legend.get_patches()]
    for kind, colour in zip(kinds, shown, strict=True):
        assert len(kind) and np.allclose(kind, colour)
    # The last token has no place in the context: its group there is shorter by one.
    lines = sorted({line.get_ydata()[0] for line in axes.lines if line.get_xdata()[0] == 0})
    assert lines == [0.5, 1.5, 3.5, 5.5, 6.5, 8.5]
    names = [text.get_text() for text in axes.get_xticklabels()]
    assert names == ["class", "1", "2", "3", "1", "2", "3"]
    assert axes.get_xlabel() and axes.get_ylabel() and axes.get_title() == "six tokens"
    figure.savefig(tmp_path / "mask.png")
