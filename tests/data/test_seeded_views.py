import lightning as L
import pytest
import torch
from torch import nn

from lightning_losses import KD, CrossEntropy, Objective
from lightning_losses.checkpoints import EpochSeed
from lightning_losses.data import Digits, ImageDataset
from lightning_losses.data.seeded_views import RandomShift, SeededViews, ViewSampler
from lightning_losses.modules import Distiller
from lightning_losses.teachers import load_cached_teacher
from lightning_losses.teachers.cache_teacher import cache_teacher

SAMPLES = ImageDataset(torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3)


def views(**options):
    return SeededViews(SAMPLES, RandomShift(2), **{"views": 3, **options})


def test_a_view_is_the_same_whenever_and_with_whomever_it_is_asked_for():
    torch.manual_seed(1)
    together = views().__getitems__([20, 3, 11, 3])
    torch.manual_seed(2)
    alone = [views()[number] for number in (20, 3, 11, 3)]
    assert torch.equal(together["inputs"], torch.stack([sample["inputs"] for sample in alone]))
    assert together["index"].tolist() == [2, 3, 2, 3] and together["view_index"].tolist() == [20, 3, 11, 3]
    assert together["target"].tolist() == [2, 0, 2, 0]


def test_views_and_seeds_differ():
    data = views()
    seen = torch.stack([data[2 + 9 * view]["inputs"] for view in range(3)] + [views(seed=5)[2]["inputs"]])
    assert len({tuple(image.flatten().tolist()) for image in seen}) >= 3


def test_a_shift_moves_and_fills_with_the_background():
    image = torch.zeros(1, 5, 5)
    image[0, 2, 2] = 1
    for seed in range(20):
        moved = RandomShift(1)(image, torch.Generator().manual_seed(seed))
        assert moved.sum() == 1 and moved[0, 1:4, 1:4].sum() == 1
    assert RandomShift(1)(image - 3, torch.Generator()).min() == -3


def test_each_epoch_shows_its_view_of_each_sample_in_the_plain_order():
    sampler, plain = (
        ViewSampler(views(), 2, 1, seed=4),
        torch.utils.data.DistributedSampler(SAMPLES, 2, 1, shuffle=True, seed=4),
    )
    for epoch in range(5):
        sampler.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert list(sampler) == [9 * (epoch % 3) + position for position in plain]


def student(teacher):
    torch.manual_seed(2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    objective = Objective({"ce": CrossEntropy(), "kd": KD(2.0)})
    return Distiller(teacher, network=network, objective=objective, num_classes=10)


def fitted(teacher, folder):
    data = Digits(batch_size=50, train_rows=100, augmentation=RandomShift(1), views=2, num_classes=10)
    module = student(teacher(data))
    trainer = L.Trainer(
        default_root_dir=folder, accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False, limit_val_batches=0, use_distributed_sampler=False,
        callbacks=[EpochSeed(0)], log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data)
    return module.network[1].weight


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("top_k", [None, 10])
def test_a_cache_of_the_views_trains_the_student_of_the_live_teacher(tmp_path, top_k):
    torch.manual_seed(3)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def cached(data):
        data.setup()
        path = cache_teacher(teacher, data.views_of_train, tmp_path, top_k=top_k, temperature=2.0)
        loaded = load_cached_teacher(path)
        assert len(loaded) == 200
        return loaded

    live = fitted(lambda data: teacher, tmp_path)
    # The teacher's network rounds otherwise in other batches, through six steps of AdamW.
    torch.testing.assert_close(fitted(cached, tmp_path), live, rtol=1e-4, atol=1e-5)
    if top_k is None:

        def first_view_alone(data):
            data.setup()
            loaded = load_cached_teacher(cache_teacher(teacher, data.train, tmp_path))
            loaded.forward = lambda index: type(loaded).forward(loaded, index % 100)
            return loaded

        assert (fitted(first_view_alone, tmp_path) - live).abs().max() > 1e-4


def test_pairs_are_a_sample_s_next_view():
    data = views(pairs=True)
    batch = data.__getitems__([4, 22])
    assert torch.equal(batch["other_inputs"], data.__getitems__([13, 4])["inputs"])
    assert "other_inputs" not in views().__getitems__([4])


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="^SeededViews: views=0"):
        views(views=0)
    with pytest.raises(ValueError, match="^SeededViews: pairs=True came with one view, whose next is itself"):
        views(views=1, pairs=True)
    with pytest.raises(ValueError, match="^RandomShift: pixels=0"):
        RandomShift(0)
    with pytest.raises(ValueError, match="^digits: views=2 came without augmentation"):
        Digits(views=2)
