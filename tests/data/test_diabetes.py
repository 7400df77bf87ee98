import torch

from lightning_losses.data.diabetes import Diabetes


def test_noise_is_of_the_training_targets_alone_and_the_same_again():
    plain, noisy = Diabetes(), Diabetes(target_noise=2.0)
    for data in (plain, noisy):
        data.setup()
    assert torch.equal(plain.val.target, noisy.val.target) and torch.equal(plain.test.target, noisy.test.target)
    assert 1.7 < (noisy.train.target - plain.train.target).std() < 2.3
    assert noisy.fingerprint() == Diabetes(target_noise=2.0).fingerprint() != plain.fingerprint()
