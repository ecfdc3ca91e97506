"""A directory without a single reference item is a mistake, not a pass."""

KINDS = (
    "*.weights.npz",
    "sampling.npz",
    "lr_schedule.npz",
    "weight_decay_groups.json",
    "pos_embed_interp.npz",
    "crop.npz",
    "orders_*.npz",
)


def test_the_directory_holds_reference_data(reference_directory):
    found = [kind for kind in KINDS if any(reference_directory.glob(kind))]
    assert found, f"{reference_directory} holds none of {', '.join(KINDS)}"
