"""Networks, data and recipes of the paper, as a user of `dpf_tf` would write them."""
