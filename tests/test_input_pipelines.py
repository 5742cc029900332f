"""The data of official_models: what every stream of batches must hold to.

Small data sets in TFDS's form are written here; those that are prepared are used where
`TFDS_DATA_DIR` names them.
"""

import itertools
import json
import pathlib
import shlex
import socket
import time

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from official_models import data
from official_models.data import imagenet, memory
from official_models.data.schedule import Schedule, permuted
from official_models.data.share import share_of
from official_models.errors import InputError
from tests.helpers import assert_bits_equal, run_python

VERSIONS = {"cifar10": "3.0.2", "fashion_mnist": "3.0.1", "imagenet2012": "5.1.0"}
EVAL_SPLITS = {
    "cifar10": "test",
    "fashion_mnist": "test",
    "imagenet2012": "validation",
}
TRAIN, EVAL = 48, 10  # Examples of the small data sets; an example's label numbers it.
MOMENTS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion_mnist": (0.2860, 0.3530),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}

names = pytest.mark.parametrize("name", VERSIONS)
names_in_memory = pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])


def write_dataset(data_dir, name, splits, classes=TRAIN, version=None):
    """Writes a data set as TFDS would: `splits` has (image, label) for each file."""
    folder = pathlib.Path(data_dir) / name / (version or VERSIONS[name])
    folder.mkdir(parents=True)
    jpeg = name == "imagenet2012"
    shape = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}.get(name)
    encoding = {"encoding_format": "jpeg" if jpeg else "png"}
    infos = []
    for split, files in splits.items():
        for number, examples in enumerate(files):
            place = f"{number:05d}-of-{len(files):05d}"
            with tf.io.TFRecordWriter(f"{folder}/{name}-{split}.tfrecord-{place}") as f:
                for image, label in examples:
                    f.write(record(image, label, f"{split}_{label}.JPEG"))
        lengths = [len(examples) for examples in files]
        infos.append(tfds.core.SplitInfo(split, lengths, num_bytes=0))
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features={
            "image": tfds.features.Image(shape=shape, **encoding),
            "label": tfds.features.ClassLabel(num_classes=classes),
            **({"file_name": tfds.features.Text()} if jpeg else {}),
        },
        split_infos=infos,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )


def record(image, label, file_name):
    """An example; a uint8 array becomes a PNG, bytes stay what they are."""
    if not isinstance(image, bytes):
        image = tf.io.encode_png(image).numpy()
    strings = {"image": image, "file_name": file_name.encode()}
    features = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        for key, value in strings.items()
    }
    features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    return tf.train.Example(
        features=tf.train.Features(feature=features)
    ).SerializeToString()


def smooth(rng, height, width, channels=3):
    """An image that survives JPEG well."""
    coarse = rng.uniform(0, 255, (4, 5, channels)).astype("float32")
    return tf.cast(tf.image.resize(coarse, (height, width)), tf.uint8)


def jpeg(rng, height, width, channels=3):
    return tf.io.encode_jpeg(smooth(rng, height, width, channels), quality=95).numpy()


def in_files(images, count):
    """Deals images, numbered by their labels, out to as many files."""
    examples = list(zip(images, range(len(images)), strict=True))
    return [examples[start::count] for start in range(count)]


@pytest.fixture(scope="module")
def images():
    """The raw images of the small data sets, by name and split."""
    rng, found = np.random.default_rng(0), {}
    for name, shape in {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}.items():
        for split, count in {"train": TRAIN, "test": EVAL}.items():
            found[name, split] = rng.integers(0, 256, (count, *shape), np.uint8)
    for split, count in {"train": TRAIN, "validation": EVAL}.items():
        sizes = rng.integers(30, 70, (count, 2))
        found["imagenet2012", split] = [jpeg(rng, *size) for size in sizes]
    return found


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, images):
    """A folder with the three small data sets, each split in three files."""
    folder = tmp_path_factory.mktemp("tfds")
    for name, split in EVAL_SPLITS.items():
        splits = {x: in_files(images[name, x], 3) for x in ("train", split)}
        write_dataset(folder, name, splits)
    return str(folder)


def training(info, **changes):
    settings = {
        "global_batch": 8,
        "steps_per_epoch": 6,
        "first_epoch": 0,
        "epochs": 1,
        "seed": 0,
    }
    return data.training(info, **(settings | changes))


def contexts(workers, replicas):
    return [
        tf.distribute.InputContext(workers, worker, replicas)
        for worker in range(workers)
    ]


def global_batches(make, workers, replicas):
    """What the replicas of all workers get together in each step, in their order."""
    streams = []
    for context in contexts(workers, replicas):
        batches, local = list(make(context)), replicas // workers
        steps = [batches[i : i + local] for i in range(0, len(batches), local)]
        streams.append(steps)
    return [
        [np.concatenate(parts) for parts in zip(*itertools.chain(*step), strict=True)]
        for step in zip(*streams, strict=True)
    ]


def numbers(batches):
    """The numbers of the small data sets' examples, in the order they come."""
    return np.concatenate([np.argmax(batch[1], axis=1) for batch in batches])


def flat(batches):
    return [np.asarray(part) for batch in batches for part in batch]


def raw(name, normalised):
    """Undoes the normalisation: pixels from 0 to 255, to float32's precision."""
    mean, std = MOMENTS[name]
    return (np.asarray(normalised, np.float64) * std + mean) * 255


# What is found, and what is not


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        InputError, match="'mnist'.*cifar10, fashion_mnist, imagenet2012"
    ):
        data.describe("mnist")


@names
def test_unprepared_data_is_an_error_at_once_and_without_the_network(
    name, tmp_path, monkeypatch
):
    def no_network(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    start = time.monotonic()
    with pytest.raises(InputError, match=f"{tmp_path}/{name}") as caught:
        data.describe(name, tmp_path)
    assert time.monotonic() - start < 5
    assert f'tfds.builder("{name}", data_dir="{tmp_path}")' in str(caught.value)
    assert ("img_train.tar" in str(caught.value)) == (name == "imagenet2012")


@pytest.mark.parametrize("folder", ["o'neil", 'the "old" data', "a $HOME \\ ü 𝄞"])
def test_the_command_that_prepares_data_survives_any_name_of_the_folder(
    folder, tmp_path, monkeypatch
):
    with pytest.raises(InputError) as caught:
        data.describe("cifar10", tmp_path / folder)
    python, option, code = shlex.split(str(caught.value).splitlines()[-1])
    assert (python, option) == ("python", "-c")
    calls = []

    class Builder:
        def __init__(self, name, data_dir):
            calls.append((name, data_dir))

        def download_and_prepare(self):
            calls.append("prepared")

    monkeypatch.setattr(tfds, "builder", Builder)
    exec(code, {})
    assert calls == [("cifar10", f"{tmp_path}/{folder}"), "prepared"]


def no_train_file(folder):
    (folder / "cifar10-train.tfrecord-00001-of-00003").unlink()


def no_test_files(folder):
    for path in folder.glob("cifar10-test*"):
        path.unlink()


def no_test_split(folder):
    facts = json.loads((folder / "dataset_info.json").read_text())
    facts["splits"] = [x for x in facts["splits"] if x["name"] != "test"]
    (folder / "dataset_info.json").write_text(json.dumps(facts))


def another_format(folder):
    facts = json.loads((folder / "dataset_info.json").read_text())
    facts["fileFormat"] = "array_record"
    (folder / "dataset_info.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_train_file, "has no cifar10-train.tfrecord-00001-of-00003. Remove"),
        (no_test_files, "has no cifar10-test.tfrecord-00000-of-00004, .* and 1 more"),
        (no_test_split, "has no split 'test'"),
        (another_format, "has files in the format array_record, not tfrecord"),
    ],
)
def test_data_that_cannot_be_read_to_the_end_is_an_error_at_once(
    damage, words, tmp_path
):
    image = np.zeros((32, 32, 3), np.uint8)
    splits = {"train": in_files([image] * 3, 3), "test": in_files([image] * 4, 4)}
    write_dataset(tmp_path, "cifar10", splits)
    assert data.describe("cifar10", tmp_path).eval_examples == 4
    folder = tmp_path / "cifar10" / VERSIONS["cifar10"]
    damage(folder)
    with pytest.raises(InputError, match=words) as caught:
        data.describe("cifar10", tmp_path)
    assert str(folder) in str(caught.value)
    assert f'tfds.builder("cifar10", data_dir="{tmp_path}")' in str(caught.value)


def test_splits_that_are_not_read_may_be_missing(tmp_path):
    rng = np.random.default_rng(0)
    files = [[(jpeg(rng, 30, 30), 0)]]
    splits = {"train": files, "validation": files, "test": files}
    write_dataset(tmp_path, "imagenet2012", splits)
    folder = tmp_path / "imagenet2012" / VERSIONS["imagenet2012"]
    (folder / "imagenet2012-test.tfrecord-00000-of-00001").unlink()
    assert data.describe("imagenet2012", tmp_path).train_examples == 1


def test_the_folder_is_the_argument_else_the_environment_else_that_of_tfds(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    assert data.describe("cifar10", pathlib.Path(data_dir)).classes == TRAIN
    with pytest.raises(InputError, match=str(tmp_path / "other")):
        data.describe("cifar10")
    monkeypatch.delenv("TFDS_DATA_DIR")
    with pytest.raises(InputError, match="home/tensorflow_datasets/cifar10"):
        data.describe("cifar10")


def test_of_several_versions_the_highest_finished_one_is_taken(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    for version in ("3.0.2", "3.0.10", "3.0.11.incompleteABC"):
        splits = {"train": [[(image, 0)]], "test": [[(image, 0)]]}
        write_dataset(tmp_path, "cifar10", splits, version=version)
    info = data.describe("cifar10", tmp_path)
    assert pathlib.Path(info.directory) == tmp_path / "cifar10" / "3.0.10"


@names
def test_a_description_tells_what_a_model_must_know(name, data_dir):
    info = data.describe(name, data_dir)
    shape = {"cifar10": (32, 32, 3), "fashion_mnist": (28, 28, 1)}
    assert info == data.DataInfo(
        name=name,
        version=info.version,
        directory=f"{data_dir}/{name}/{VERSIONS[name]}",
        classes=TRAIN,
        image_shape=shape.get(name, (224, 224, 3)),
        train_examples=TRAIN,
        eval_examples=EVAL,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch": 0}, "multiple of the number of replicas"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0 must be positive"),
        ({"first_epoch": 2}, "between 0 and epochs=1"),
        ({"seed": -1}, "seed=-1 must lie between"),
        ({"seed": 2**31}, "seed=2147483648 must lie between"),
    ],
)
def test_settings_that_make_no_stream_are_refused(changes, message, data_dir):
    with pytest.raises(ValueError, match=message):
        training(data.describe("cifar10", data_dir), **changes)


def test_a_global_batch_that_replicas_cannot_share_is_refused(data_dir):
    info = data.describe("cifar10", data_dir)
    context = tf.distribute.InputContext(1, 0, 3)
    for make in (training, data.evaluation):
        with pytest.raises(ValueError, match="global_batch=8 .* replicas, 3"):
            make(info, global_batch=8, context=context)


# Training


@names
def test_shapes_are_static_and_the_length_is_known(name, data_dir):
    info = data.describe(name, data_dir)
    context = tf.distribute.InputContext(2, 1, 4)
    stream = training(info, first_epoch=3, epochs=5, context=context)
    assert stream.element_spec == (
        tf.TensorSpec((2, *info.image_shape), tf.float32),
        tf.TensorSpec((2, TRAIN), tf.float32),
    )
    assert int(stream.cardinality()) == 2 * 6 * 2
    assert sum(1 for _ in stream) == 2 * 6 * 2
    assert not list(training(info, first_epoch=5, epochs=5))


@pytest.mark.parametrize("size", [1, 2, 3, 17, 48, 1000, 50_000])
def test_positions_of_an_epoch_are_permutations_one_after_another(size):
    chosen = permuted(tf.range(3 * size, dtype=tf.int64), size, seed=3, epoch=2)
    passes = chosen.numpy().reshape(3, size)
    assert all(np.array_equal(np.sort(one), np.arange(size)) for one in passes)
    if size > 16:
        assert not np.array_equal(passes[0], passes[1])
    later = permuted(tf.constant([size + size // 2], tf.int64), size, 3, epoch=2)
    assert later.numpy() == passes[1, size // 2]


@pytest.mark.parametrize("second", [{"epoch": 1}, {"seed": 1}])
def test_examples_meet_again_in_a_batch_no_more_often_than_by_chance(second):
    size, batch = 50_000, 125
    position = tf.range(size, dtype=tf.int64)
    one = permuted(position, size, **{"seed": 0, "epoch": 0}).numpy()
    two = permuted(position, size, **({"seed": 0, "epoch": 0} | second)).numpy()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02
    assert abs(np.corrcoef(one, position)[0, 1]) < 0.02
    batch_of = np.empty(size, np.int64)
    batch_of[two] = np.arange(size) // batch
    met = np.zeros((size // batch, size // batch), np.int64)
    np.add.at(met, (np.arange(size) // batch, batch_of[one]), 1)
    pairs = np.sum(met * (met - 1)) / 2
    chance = size * (batch - 1) / 2 * (batch - 1) / (size - 1)
    assert abs(pairs / chance - 1) < 0.1


@names
def test_an_epoch_sees_every_example_once_and_each_epoch_in_another_order(
    name, data_dir
):
    info = data.describe(name, data_dir)
    epochs = numbers(training(info, epochs=3)).reshape(3, TRAIN)
    assert all(np.array_equal(np.sort(one), np.arange(TRAIN)) for one in epochs)
    assert len({one.tobytes() for one in epochs}) == 3
    other = numbers(training(info, seed=1))
    assert not np.array_equal(other, epochs[0])


@names
def test_a_long_epoch_goes_on_with_another_permutation(name, data_dir):
    info = data.describe(name, data_dir)
    found = numbers(training(info, steps_per_epoch=15, epochs=2)).reshape(2, 120)
    for epoch in found:
        first, second, rest = epoch[:48], epoch[48:96], epoch[96:]
        assert np.array_equal(np.sort(first), np.arange(TRAIN))
        assert np.array_equal(np.sort(second), np.arange(TRAIN))
        assert len(set(rest)) == 24
        assert not np.array_equal(first, second)


@names
def test_a_short_epoch_is_the_start_of_a_long_one(name, data_dir):
    info = data.describe(name, data_dir)
    long, short = training(info), training(info, steps_per_epoch=2)
    assert_bits_equal(flat(short), flat(list(long)[:2]))


@names
def test_a_resumed_stream_is_the_tail_of_the_whole_one_bit_for_bit(name, data_dir):
    info = data.describe(name, data_dir)
    settings = {"steps_per_epoch": 7, "epochs": 3, "seed": 5}
    whole = flat(training(info, **settings))
    tf.random.set_seed(1)  # No other randomness of the program matters.
    try:
        resumed = flat(training(info, **settings, first_epoch=1))
    finally:
        tf.random.set_seed(None)
    assert_bits_equal(resumed, whole[2 * 7 :])


@names
def test_augmentation_changes_pixels_but_not_order_and_differs_by_epoch_and_seed(
    name, data_dir
):
    info = data.describe(name, data_dir)
    plain = list(training(info, augment=False, epochs=2))
    augmented = list(training(info, epochs=2))
    assert np.array_equal(numbers(plain), numbers(augmented))
    by_number = [
        dict(zip(numbers(part), np.concatenate([x for x, _ in part]), strict=True))
        for part in (augmented[:6], augmented[6:], list(training(info, seed=1)))
    ]
    for one, two in itertools.combinations(by_number, 2):
        same = sum(np.array_equal(one[i], two[i]) for i in range(TRAIN))
        assert same <= 3


@names_in_memory
@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 4)])
def test_any_number_of_workers_and_replicas_shares_the_same_global_batches(
    name, workers, replicas, data_dir
):
    info = data.describe(name, data_dir)
    shared = global_batches(
        lambda context: training(info, epochs=2, context=context), workers, replicas
    )
    assert_bits_equal(flat(shared), flat(training(info, epochs=2)))


# Of three files, three workers read one each; two share the examples of all.
@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 4), (3, 3)])
def test_workers_share_imagenet_without_overlap_or_omission(
    workers, replicas, data_dir
):
    info = data.describe("imagenet2012", data_dir)
    settings = {"epochs": 2, "global_batch": 24, "steps_per_epoch": 2, "augment": False}
    shared = global_batches(
        lambda context: training(info, **settings, context=context), workers, replicas
    )
    epochs = numbers(shared).reshape(2, TRAIN)
    assert all(np.array_equal(np.sort(one), np.arange(TRAIN)) for one in epochs)


def test_a_worker_resumes_imagenet_in_its_own_stream(data_dir):
    info = data.describe("imagenet2012", data_dir)
    for context in (contexts(2, 2)[1], contexts(3, 3)[1]):
        settings = {"global_batch": 24, "steps_per_epoch": 2, "context": context}
        whole = flat(training(info, **settings, epochs=2))
        resumed = flat(training(info, **settings, epochs=2, first_epoch=1))
        assert_bits_equal(resumed, whole[2 * 2 :])


def test_a_shuffle_buffer_smaller_than_imagenet_makes_passes_and_resumes(data_dir):
    info, share = data.describe("imagenet2012", data_dir), share_of(24, None)

    def stream(first_epoch):
        schedule = Schedule(24, 3, first_epoch, epochs=2, seed=5)
        return list(imagenet.training(info, schedule, share, False, shuffle_buffer=7))

    whole = stream(first_epoch=0)
    assert_bits_equal(flat(stream(first_epoch=1)), flat(whole[3:]))
    orders = numbers(whole).reshape(2, 72)
    for order in orders:
        assert np.array_equal(np.sort(order[:TRAIN]), np.arange(TRAIN))
        assert len(set(order[TRAIN:])) == 24
    assert not np.array_equal(*orders)


def test_the_replicas_of_a_strategy_get_the_batches_of_the_plain_stream(data_dir):
    code = """
import json, sys, zlib
import tensorflow as tf
from official_models import data
cpu = tf.config.list_physical_devices("CPU")[0]
devices = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, devices)
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
found = {}
for name in ("cifar10", "imagenet2012"):
    info = data.describe(name, sys.argv[1])
    def make(context=None):
        return data.training(
            info, global_batch=8, steps_per_epoch=3, first_epoch=1, epochs=3, seed=0,
            context=context,
        )
    shared = strategy.distribute_datasets_from_function(make)
    sums = lambda tensors: [zlib.crc32(x.numpy().tobytes()) for x in tensors]
    local = strategy.experimental_local_results
    found[name] = [
        [sums(tf.concat(local(part), 0) for part in batch) for batch in shared],
        [sums(batch) for batch in make()],
    ]
print(json.dumps(found))
"""
    for shared, plain in run_python(code, data_dir).values():
        assert len(plain) == 6
        assert shared == plain


# Pixels


@pytest.mark.parametrize("padding", [0, 2, 4])
def test_crops_and_flips_equal_those_of_a_simulation(padding):
    rng = np.random.default_rng(padding)
    batch = rng.integers(0, 256, (20, 6, 7, 3), np.uint8)
    top, left = rng.integers(0, 2 * padding + 1, (2, 20), np.int32)
    flip = rng.random(20) < 0.5
    expected = []
    for i, image in enumerate(batch):
        padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)])
        crop = padded[top[i] : top[i] + 6, left[i] : left[i] + 7]
        expected.append(crop[:, ::-1] if flip[i] else crop)
    actual = memory.crop_and_flip(tf.constant(batch), top, left, flip, padding)
    assert np.array_equal(actual, expected)


@names_in_memory
def test_an_augmented_image_is_a_crop_of_its_original_padded_with_black(
    name, data_dir, images
):
    info = data.describe(name, data_dir)
    padding = {"cifar10": 4, "fashion_mnist": 2}[name]
    height, width, _ = info.image_shape
    around, seen = [(padding, padding), (padding, padding), (0, 0)], []
    for batch, labels in training(info, epochs=4):
        found = np.rint(raw(name, batch))
        assert np.abs(raw(name, batch) - found).max() < 1e-3
        for image, number in zip(found, np.argmax(labels, axis=1), strict=True):
            padded = np.pad(images[name, "train"][number], around)
            span = range(2 * padding + 1)
            seen += [
                (top, left, flip)
                for top, left, flip in itertools.product(span, span, [1, -1])
                if np.array_equal(
                    padded[top : top + height, left : left + width][:, ::flip], image
                )
            ]
    assert len(seen) == 4 * TRAIN  # Exactly one crop is the right one.
    tops, lefts, flips = zip(*seen, strict=True)
    assert set(tops) == set(lefts) == set(range(2 * padding + 1))
    assert 0.35 < np.mean(np.array(flips) == 1) < 0.65
    assert len(set(seen)) > 40


@names_in_memory
def test_images_in_memory_are_normalised_by_the_moments_of_their_data_set(
    name, data_dir, images
):
    info = data.describe(name, data_dir)
    for batch, labels in training(info, augment=False):
        chosen = images[name, "train"][np.argmax(labels, axis=1)]
        mean, std = MOMENTS[name]
        np.testing.assert_allclose(batch, (chosen / 255 - mean) / std, atol=2e-6)


def test_plain_and_test_images_of_imagenet_are_the_central_crop(data_dir, images):
    info = data.describe("imagenet2012", data_dir)
    streams = {
        "validation": data.evaluation(info, global_batch=5),
        "train": training(info, augment=False),
    }
    mean, std = MOMENTS["imagenet2012"]
    for split, stream in streams.items():
        for batch in stream:
            for image, label in zip(batch[0], batch[1], strict=True):
                whole = images["imagenet2012", split][np.argmax(label)]
                whole = tf.io.decode_jpeg(whole, channels=3).numpy()
                height, width, _ = whole.shape
                side = round(min(height, width) * 224 / 256)
                top, left = (height - side) // 2, (width - side) // 2
                crop = whole[top : top + side, left : left + side]
                expected = (tf.image.resize(crop, (224, 224)) / 255 - mean) / std
                # A decoder that crops cannot smooth colours across the crop's border.
                border = 2 * 224 // side
                error = np.abs(image - expected)
                assert error[border:-border, border:-border].max() < 1e-4
                assert error.max() < 0.5


def test_random_windows_have_8_to_100_percent_and_3_to_4_up_to_4_to_3():
    shape, areas, aspects = tf.constant([300, 400, 3]), [], []
    for seed in range(400):
        top, left, height, width = imagenet.random_window(shape, [0, seed]).numpy()
        assert 0 <= top <= 300 - height and 0 <= left <= 400 - width
        areas.append(height * width / (300 * 400))
        aspects.append(width / height)
    assert min(areas) > 0.075 and max(areas) <= 1
    assert min(areas) < 0.12 and max(areas) > 0.85
    assert min(aspects) > 0.74 and max(aspects) < 1.35
    assert min(aspects) < 0.78 and max(aspects) > 1.28


def imagenet_of(folder, jpegs):
    """An ImageNet of these JPEGs, the same for training and for validation."""
    splits = {split: in_files(jpegs, 2) for split in ("train", "validation")}
    write_dataset(folder, "imagenet2012", splits)
    return data.describe("imagenet2012", folder)


def test_a_greyscale_jpeg_becomes_three_equal_channels(tmp_path):
    rng = np.random.default_rng(0)
    info = imagenet_of(tmp_path, [jpeg(rng, 40, 50, channels=1) for _ in range(4)])
    settings = {"global_batch": 2, "steps_per_epoch": 2}
    for stream in (training(info, **settings), data.evaluation(info, global_batch=2)):
        for batch in stream:
            pixels = raw("imagenet2012", batch[0])
            assert pixels.shape == (2, 224, 224, 3)
            np.testing.assert_allclose(pixels[..., :1] + np.zeros(3), pixels, atol=1e-3)
            assert pixels.std() > 5


@pytest.mark.parametrize("damage", ["no JPEG", "cut", "empty"])
def test_a_broken_jpeg_is_named_by_the_error_with_its_label_and_file(damage, tmp_path):
    rng = np.random.default_rng(0)
    jpegs = [jpeg(rng, 60, 50) for _ in range(4)]
    damages = {"no JPEG": b"no picture", "cut": jpegs[2][:200], "empty": b""}
    jpegs[2] = damages[damage]
    info = imagenet_of(tmp_path, jpegs)
    settings = {"global_batch": 2, "steps_per_epoch": 2}
    streams = {
        "train": training(info, **settings),
        "validation": data.evaluation(info, global_batch=2),
    }
    for split, stream in streams.items():
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            list(stream)
        for part in (
            "imagenet2012: this JPEG cannot be decoded",
            f"remove {info.directory} and prepare the data set again",
            f"[{split}_2.JPEG] [label] [2]",
            f"imagenet2012-{split}.tfrecord-00000-of-00002",
        ):
            assert part in str(caught.value)


# Evaluation


@names
@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 4)])
def test_an_evaluation_weighs_every_example_once_and_what_fills_it_up_by_0(
    name, workers, replicas, data_dir
):
    info = data.describe(name, data_dir)

    def make(context):
        return data.evaluation(info, global_batch=4, context=context)

    spec = make(contexts(workers, replicas)[0]).element_spec
    assert spec == (
        tf.TensorSpec((4 // replicas, *info.image_shape), tf.float32),
        tf.TensorSpec((4 // replicas, TRAIN), tf.float32),
        tf.TensorSpec((4 // replicas,), tf.float32),
    )
    batches = global_batches(make, workers, replicas)
    assert len(batches) == data.evaluation_steps(info, 4) == 3
    weights = np.concatenate([batch[2] for batch in batches])
    assert np.array_equal(weights, [1.0] * EVAL + [0.0] * 2)
    assert np.array_equal(np.sort(numbers(batches)[:EVAL]), np.arange(EVAL))
    assert_bits_equal(flat(batches), flat(make(None)))
    assert np.isfinite(np.concatenate([batch[0] for batch in batches])).all()


def test_an_evaluation_may_fit_into_part_of_one_batch(data_dir):
    for name in VERSIONS:
        info = data.describe(name, data_dir)
        (batch,) = data.evaluation(info, global_batch=32)
        assert np.array_equal(batch[2], [1.0] * EVAL + [0.0] * 22)


# The prepared data sets


def prepared(name, tfds_data_dir):
    if not list(pathlib.Path(tfds_data_dir, name).glob("*/dataset_info.json")):
        pytest.skip(f"{name} is not prepared in {tfds_data_dir}")
    return data.describe(name, tfds_data_dir)


@names_in_memory
def test_a_real_epoch_is_centred_and_balanced(name, tfds_data_dir):
    info = prepared(name, tfds_data_dir)
    count = {"cifar10": (50_000, 10_000), "fashion_mnist": (60_000, 10_000)}[name]
    assert (info.train_examples, info.eval_examples) == count
    assert info.classes == 10
    steps = info.train_examples // 500
    stream = training(info, global_batch=500, steps_per_epoch=steps, augment=False)
    sums, squares, histogram = 0.0, 0.0, np.zeros(10)
    for batch, labels in stream:
        sums += np.mean(batch, axis=(0, 1, 2)) / steps
        squares += np.mean(np.square(batch), axis=(0, 1, 2)) / steps
        histogram += np.sum(labels, axis=0)
    assert np.abs(sums).max() < 0.01
    deviations = np.sqrt(squares)
    # The deviations in use for CIFAR-10 are means over single images'.
    assert deviations.min() > 0.99 and deviations.max() < 1.32
    assert (histogram == info.train_examples / 10).all()


@names_in_memory
def test_a_real_test_split_is_balanced_and_complete(name, tfds_data_dir):
    info = prepared(name, tfds_data_dir)
    histogram, total = np.zeros(10), 0.0
    for _, labels, weights in data.evaluation(info, global_batch=768):
        histogram += np.sum(labels * weights[:, None], axis=0)
        total += np.sum(weights)
    assert total == 10_000
    assert (histogram == 1000).all()


def test_imagenet_in_its_real_layout_gives_batches_and_its_own_labels(tfds_data_dir):
    info = prepared("imagenet2012", tfds_data_dir)
    assert info.classes == 1000
    batch, labels = next(iter(training(info, global_batch=16)))
    assert batch.shape == (16, 224, 224, 3)
    assert labels.shape == (16, 1000) and np.array_equal(np.sum(labels, 1), [1] * 16)
    pixels = raw("imagenet2012", batch)
    assert pixels.min() > -0.01 and pixels.max() < 255.01
    if info.eval_examples > 1000:
        return  # The true one: too many for a test.
    found = tfds.builder_from_directory(info.directory).as_dataset(split="validation")
    expected = np.bincount([int(x["label"]) for x in found], minlength=1000)
    histogram = sum(
        np.sum(labels * weights[:, None], axis=0)
        for _, labels, weights in data.evaluation(info, global_batch=64)
    )
    assert np.array_equal(histogram, expected)
