"""The heart, plain torch: masked and sloped activations, sites of any network, counting, budgets, mask file."""
