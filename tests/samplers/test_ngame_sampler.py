import pytest
import torch
import torch.nn.functional as F

from lightning_losses.samplers import NGAMESampler, balanced_clusters

EMBEDDINGS = F.normalize(torch.randn(50, 6, generator=torch.Generator().manual_seed(0)), dim=-1)


def at(epoch, sampler=None, **options):
    sampler = sampler or NGAMESampler(50, 8, curriculum=[1, 2, 4], **options)
    sampler.set_epoch(epoch)
    return sampler


def nearness(batches):
    """The mean cosine of two samples of a batch."""
    within = [EMBEDDINGS[batch] @ EMBEDDINGS[batch].mT for batch in batches]
    return float(torch.stack([(each.sum() - len(each)) / (len(each) * (len(each) - 1)) for each in within]).mean())


@pytest.mark.parametrize("clusters", [1, 2, 3, 7, 25, 50])
def test_clusters_are_of_equal_size_within_one(clusters):
    sizes = balanced_clusters(EMBEDDINGS, clusters, torch.Generator().manual_seed(0)).bincount(minlength=clusters)
    assert len(sizes) == clusters and int(sizes.max() - sizes.min()) <= 1


def test_groups_that_lie_apart_are_found():
    centres = torch.eye(4).repeat_interleave(6, dim=0)
    noisy = centres + 0.05 * torch.randn(24, 4, generator=torch.Generator().manual_seed(1))
    labels = balanced_clusters(noisy, 4, torch.Generator().manual_seed(2)).view(4, 6)
    assert all(len(set(group.tolist())) == 1 for group in labels) and len(set(labels[:, 0].tolist())) == 4


def test_an_epoch_is_a_part_of_a_permutation_and_batches_come_closer():
    sampler = at(0)
    assert sampler.cluster_size == 1 and not sampler.wants_embeddings
    found = [nearness(sampler.plan())]
    for epoch, size in ((1, 2), (2, 4), (4, 8)):
        at(epoch, sampler)
        assert sampler.cluster_size == size and sampler.wants_embeddings
        sampler.cluster(EMBEDDINGS)
        assert not sampler.wants_embeddings
        plan = sampler.plan()
        assert len(set(plan.flatten().tolist())) == plan.numel() == len(sampler) == 48
        found.append(nearness(plan))
    assert found == sorted(found) and found[-1] > found[0] + 0.2


def test_clusters_are_made_anew_after_the_interval_and_are_those_of_seed_and_epoch():
    sampler = at(4, refresh_interval=3)
    sampler.cluster(EMBEDDINGS)
    assert [at(epoch, sampler).wants_embeddings for epoch in (5, 6, 7)] == [False, False, True]
    again, other = at(4), at(4, seed=1)
    again.cluster(EMBEDDINGS)
    other.cluster(EMBEDDINGS)
    assert torch.equal(again.clusters, sampler.clusters) and not torch.equal(again.plan(), other.plan())
    resumed = at(5)
    resumed.load_state_dict(again.state_dict())
    assert not resumed.wants_embeddings and torch.equal(resumed.plan(), at(5, again).plan())


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: at(1).plan(), "epoch 1 is of the curriculum [1, 2, 4], and no clusters are known; add the "
         "callback NGAMEClusters, or give embeddings to `cluster`."),
        (lambda: NGAMESampler(50, 8, curriculum=[2, 1]), "curriculum=[2, 1] came; give rising epochs from 0 on, at "
         "least one."),
        (lambda: NGAMESampler(5, 8), "batches of 8 came for 5 samples; give smaller ones."),
        (lambda: at(1).cluster(EMBEDDINGS[:9]), "embeddings of shape [9, 6] came for 50 samples; give a finite vector "
         "of each."),
        (lambda: at(1).load_state_dict({"clusters": torch.zeros(3), "clustered_at": 1}), "clusters of 3 samples came "
         "for 50; resume with the same data."),
    ],
    ids=["no clusters", "curriculum", "few", "embeddings", "state"],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, told):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == f"ngame_sampler: {told}"
