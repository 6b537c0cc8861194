"""Ciphertexts of a product of matrices, against what SPU 0.9.5 sent in one convolution."""

import pytest

from relinearize.private_inference.cost.workload import ciphertexts

# Megabytes that each party sent in steady state, one convolution or product alone, two processes.
MEASURED = [
    ((256, 144, 16), 0.415012, 0.254902),  # here the weights are encrypted, the other way round than below
    ((1024, 144, 16), 0.550172, 0.510672),
    ((1024, 27, 16), 0.550135, 0.510731),
    ((64, 576, 64), 0.925345, 0.299445),
]


@pytest.mark.parametrize(("dims", "encrypting", "answering"), MEASURED)
def test_bytes_follow_from_the_polynomials(dims, encrypting, answering):
    """One size for all sent, one for all returned, and 11 bytes an output, always of the server, for the rounding."""
    found = ciphertexts(*dims)
    server_encrypts = dims[0] > dims[2]
    rounding = 11e-6 * dims[0] * dims[2]
    assert found["sent_polynomials"] * 0.18507 + rounding * server_encrypts == pytest.approx(encrypting, rel=0.01)
    assert found["returned_polynomials"] * 0.12745 + rounding * (not server_encrypts) == pytest.approx(
        answering, rel=0.01
    )


def test_what_fits_into_one_is_not_packed():
    assert list(ciphertexts(1, 64, 10).values()) == [1, 1, 1, 1, 0]  # sent, returned, multiplied, results, packed
    assert list(ciphertexts(64, 144, 16).values()) == [2, 2, 32, 16, 128]
    assert ciphertexts(1, 20_000, 1)["sent_polynomials"] == 3, "more than fit into two"


@pytest.mark.parametrize(
    ("dims", "milliseconds"),
    [
        ((1024, 27, 16), 83), ((1024, 144, 16), 620), ((256, 288, 32), 651), ((256, 16, 32), 43), ((64, 576, 64), 279),
        ((64, 32, 64), 72), ((16, 576, 128), 1110), ((16, 1152, 128), 1083), ((16, 64, 128), 130),
        ((16, 1728, 192), 1094),
    ],
)  # fmt: skip
def test_packing_takes_as_long_for_empty_places(dims, milliseconds):
    """Against the time that the engine's log gives for each packing of a ResNet, on one quiet machine."""
    assert ciphertexts(*dims)["packed_ciphertexts"] * 2.4 == pytest.approx(milliseconds, rel=0.2)


def test_growing_products_never_take_less():
    for few, more in (((16, 144, 32), (64, 144, 32)), ((64, 144, 16), (64, 288, 32)), ((64, 9, 16), (256, 9, 16))):
        small, large = ciphertexts(*few), ciphertexts(*more)
        sent, returned = "sent_polynomials", "returned_polynomials"
        assert small[sent] + small[returned] <= large[sent] + large[returned]
