"""How networks behave on attacked and corrupted images; everything takes pixels in [0, 1] and answers in pixels."""
