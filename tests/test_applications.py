"""Whole networks of keras.applications: wrap, train a step, strip, save and load."""

import numpy as np
import pytest

import dpf_tf

NETWORKS = (
    "MobileNetV2",
    "MobileNetV3Small",
    "ResNet50",
    "EfficientNetB0",
    "ConvNeXtTiny",
    "DenseNet121",
)
FAST = ("MobileNetV2", "MobileNetV3Small")
SIZE = 32


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_network_wraps_trains_strips_saves_and_loads(keras, name, tmp_path):
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(SIZE, SIZE, 3), classes=10
    )
    names = [layer.name for layer in model.layers]
    with_kernels = [
        layer
        for layer in model.layers
        if type(layer).__name__ in ("Conv2D", "Dense")
        and getattr(layer, "groups", 1) == 1  # ConvNeXt's depthwise convolutions.
    ]
    pruned = dpf_tf.prune_low_magnitude_dpf(
        model, dpf_tf.ConstantSparsity(0.8, frequency=1)
    )
    assert [layer.name for layer in pruned.layers] == names
    masks = dpf_tf.get_masks(pruned)
    # All but the last, which makes the outputs.
    wrapped = {path.rsplit("/", 1)[0] for path in masks}
    assert {layer.name for layer in with_kernels[:-1]} <= wrapped
    assert with_kernels[-1].name not in wrapped
    assert not any("depthwise" in path for path in masks)

    pruned.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(2, SIZE, SIZE, 3)).astype("float32")
    pruned.fit(
        x, np.array([1, 2]), verbose=0, callbacks=[dpf_tf.PruningCallback(settle=0)]
    )
    report = dpf_tf.sparsity_report(pruned)
    total = report["pruned"]["weights"]
    assert report["pruned"]["kept"] == total - round(0.8 * total)

    sparse = dpf_tf.strip_pruning(pruned)
    expected = pruned.predict(x, verbose=0)
    np.testing.assert_array_equal(sparse.predict(x, verbose=0), expected)
    sparse.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(
        tmp_path / "sparse.keras",
        # ConvNeXt's LayerScale is not registered in tf_keras, for dense models either.
        custom_objects={
            name: type(layer)
            for layer in sparse.layers
            if (name := type(layer).__name__) == "LayerScale"
        },
    )
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected)
    zeros = sum(int((w.numpy() == 0).sum()) for w in loaded.weights if len(w.shape) > 1)
    assert zeros >= total - report["pruned"]["kept"]
