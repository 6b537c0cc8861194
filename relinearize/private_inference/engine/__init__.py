"""An exported network under real two-party computation: `relinearize infer`.

Two engines behind one command, one job, one record: SecretFlow SPU (`spu/`), which lives in an environment of its own
(`make pi`) with jax and neither torch nor Hydra, and CrypTen (`crypten/`), beside PyTorch (`make crypten`). The bundle
is all that crosses the border; only these folders import an engine, the others run anywhere.
"""
