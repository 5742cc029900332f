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


def test_the_report_is_plain_data(keras):
    found = report(keras)[1]
    assert json.loads(json.dumps(found)) == dict(found)
