"""How networks behave on attacked and corrupted images; everything takes and returns pixels in [0, 1]."""
