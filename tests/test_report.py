"""`sparsity_report`: the table, and its numbers against a count by hand."""

import json

import numpy as np

import dpf_tf

TABLE = """\
kernel                    shape  weights  kept  sparsity  share of kept
----------------------  -------  -------  ----  --------  -------------
body/conv/kernel        3x3x2x4       72    36    0.5000         37.50%
body/dense/kernel         12x10      120    60    0.5000         62.50%
----------------------  -------  -------  ----  --------  -------------
pruned layers' kernels               192    96    0.5000
whole model                          248   152    0.3871

cost    parameters   MACs
------  ----------  -----
dense          248  1,426
masked         152    790
shrunk         248  1,426

left dense:
body/scale/depthwise  3x3x4x1  36  depthwise
logits/kernel            10x1  10  makes the model's output"""


def model(keras):
    layers = keras.layers
    image = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, name="conv", use_bias=False)(image)
    x = layers.DepthwiseConv2D(3, use_bias=False, name="scale")(x)
    x = layers.Reshape((4, 4))(x)
    x = layers.Flatten()(layers.Concatenate()([x, x])[:, :, :3])
    x = layers.Dense(10, name="dense")(x)
    body = keras.Model(image, x, name="body")
    inputs = keras.Input((6, 6, 2))
    outputs = layers.Dense(1, name="logits", use_bias=False)(body(inputs))
    whole = keras.Model(inputs, [layers.ReLU()(outputs)])
    return dpf_tf.prune_low_magnitude_dpf(
        whole, dpf_tf.ConstantSparsity(0.5), allocation="uniform"
    )


def report(keras):
    pruned = model(keras)
    dpf_tf.MaskUpdater(pruned).update(0)
    return pruned, dpf_tf.sparsity_report(pruned)


def test_the_table_is_as_recorded(keras):
    # The two Kerases name a depthwise kernel differently.
    table = str(report(keras)[1]).replace("depthwise_kernel", "depthwise")
    table = table.replace("body/scale/kernel   ", "body/scale/depthwise")
    assert table.splitlines()[:7] == TABLE.splitlines()[:7]
    squeeze = [" ".join(line.split()) for line in table.splitlines()]
    expected = [" ".join(line.split()) for line in TABLE.splitlines()]
    assert [x.replace("scale/kernel", "scale/depthwise") for x in squeeze] == expected


def test_the_numbers_are_those_of_the_masks_and_the_weights(keras):
    pruned, found = report(keras)
    masks = dpf_tf.get_masks(pruned)
    assert [k["path"] for k in found["kernels"]] == list(masks)
    assert [k["kept"] for k in found["kernels"]] == [m.sum() for m in masks.values()]
    sparse = dpf_tf.strip_pruning(pruned)
    weights = [w.numpy() for w in sparse.weights]
    assert found["overall"]["weights"] == sum(w.size for w in weights)
    zeros = 96  # Biases are zero too, but not pruned.
    assert found["overall"]["sparsity"] == zeros / sum(w.size for w in weights)
    assert np.isclose(sum(k["share"] for k in found["kernels"]), 1)


def test_with_a_soft_threshold_the_zeros_are_counted_that_the_layers_compute_with(
    keras,
):
    """Under frozen masks, of which a decay takes more and more below the threshold."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 16)).astype(np.float32)
    hidden = keras.layers.Dense(
        32, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-2)
    )
    soft = dpf_tf.prune_low_magnitude_dpf(
        keras.Sequential([keras.Input((16,)), hidden, keras.layers.Dense(1)]),
        dpf_tf.ConstantSparsity(0.5, frequency=8),
        threshold="soft",
    )
    soft.compile(keras.optimizers.SGD(0.1), "mse")
    callback = dpf_tf.PruningCallback()
    soft.fit(x, x[:, :1], 32, epochs=4, verbose=0, callbacks=[callback])
    dpf_tf.freeze_masks(soft)
    soft.fit(x, x[:, :1], 32, epochs=4, verbose=0)
    found, (mask,) = dpf_tf.sparsity_report(soft), dpf_tf.get_masks(soft).values()
    kernel = next(w for w in dpf_tf.strip_pruning(soft).get_weights() if w.ndim == 2)
    assert found["pruned"]["kept"] == np.count_nonzero(kernel) < mask.sum() == 256
    macs = found["cost"]["masked"]["macs"]
    assert macs == dpf_tf.count_macs(dpf_tf.strip_pruning(soft)).sparse
    assert found["overall"]["kept"] == found["cost"]["masked"]["parameters"]


def test_the_report_is_plain_data(keras):
    found = report(keras)[1]
    assert json.loads(json.dumps(found)) == dict(found)


def test_the_costs_are_those_of_the_stripped_and_of_the_shrunken_model(keras):
    layers, images = keras.layers, keras.Input((8, 8, 3))
    x = stem = layers.Conv2D(8, 3, padding="same", name="stem")(images)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(x))
    x = layers.Flatten()(layers.Add()([x, stem]))
    x = layers.Dense(12, activation="relu", name="hidden")(x)
    whole = keras.Model(images, layers.Dense(2)(x))
    pruned = dpf_tf.prune_low_magnitude_dpf(
        whole, dpf_tf.ConstantSparsity(0.5), structure=dpf_tf.Filters()
    )
    dpf_tf.MaskUpdater(pruned).update(0)
    found = dpf_tf.sparsity_report(pruned)
    sparse, small = dpf_tf.strip_pruning(pruned), dpf_tf.shrink(pruned)
    macs = dpf_tf.count_macs(sparse)
    assert found["cost"] == {
        "dense": {"parameters": whole.count_params(), "macs": macs.dense},
        "masked": {
            "parameters": found["overall"]["kept"],
            "macs": macs.sparse,
        },
        "shrunk": {
            "parameters": small.count_params(),
            "macs": dpf_tf.count_macs(small).dense,
        },
    }
    filters = {k["path"]: (k["filters_kept"], k["filters"]) for k in found["kernels"]}
    assert filters["hidden/kernel"] == (small.get_layer("hidden").units, 12)
    assert filters["stem/kernel"] == (small.get_layer("stem").filters, 8)
    assert f"{filters['stem/kernel'][0]} of 8" in str(found)


def test_a_schedule_that_cannot_be_saved_is_reported(keras):
    dense = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8), keras.layers.Dense(2)]
    )
    pruned = dpf_tf.prune_low_magnitude_dpf(dense, lambda step: (step % 4 == 0, 0.5))
    dpf_tf.MaskUpdater(pruned).update(0)
    cost = dpf_tf.sparsity_report(pruned)["cost"]
    assert cost["dense"]["macs"] == 6 * 8 + 8 * 2
    assert cost["masked"]["macs"] == 6 * 8 / 2 + 8 * 2


def test_costs_that_cannot_be_told_are_none(keras):
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 3)(images)
    x = keras.layers.Conv2D(2, 1)(keras.layers.GlobalMaxPooling2D(keepdims=True)(x))
    pruned = dpf_tf.prune_low_magnitude_dpf(
        keras.Model(images, x), dpf_tf.ConstantSparsity(0.5)
    )
    dpf_tf.MaskUpdater(pruned).update(0)
    cost = dpf_tf.sparsity_report(pruned)["cost"]
    assert {form["macs"] for form in cost.values()} == {None}
    assert cost["dense"]["parameters"] == 8 * 27 + 8 + 16 + 2
    layer = dpf_tf.prune_low_magnitude_dpf(keras.layers.Dense(4), 0.5)
    layer.build((None, 8))
    assert dpf_tf.sparsity_report(layer)["cost"]["shrunk"]["parameters"] is None
