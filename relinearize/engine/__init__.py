"""An exported network under real two-party computation: `relinearize infer`.

Lives in an environment of its own (`make pi`), which has SecretFlow SPU and jax and neither torch nor Hydra; the bundle
is all that crosses the border. Only `lowering`, `runtime`, `party` and `infer` import jax or spu, and only in that
environment; the others run anywhere.
"""
