import pytest
import torch

from lightning_losses.data.stdlib_text import StdlibText, TextDataset, source_files


def made(**options):
    data = StdlibText(**{"batch_size": 4, "block_length": 32, "max_bytes": 200_000, **options})
    data.setup()
    return data


def test_targets_are_the_next_tokens_and_each_is_one_once():
    text = torch.arange(11, dtype=torch.uint8)
    dataset = TextDataset(text, block_length=3)
    batch = dataset.__getitems__([0, 1, 2])
    assert batch["inputs"].dtype == batch["target"].dtype == torch.int64
    assert batch["inputs"].flatten().tolist() == list(range(9))
    assert batch["target"].flatten().tolist() == list(range(1, 10))
    # Exactly one block and its last target fit; one token less doesn't.
    assert len(TextDataset(text, block_length=10)) == 1
    with pytest.raises(ValueError, match=r"block_length=2\.5 came; give a whole number"):
        TextDataset(text, block_length=2.5)
    with pytest.raises(ValueError, match="block_length=11 came with a text of 11 tokens; give shorter"):
        TextDataset(text, block_length=11)


def test_the_text_is_python_without_tests_and_packages():
    paths = source_files()
    names = {path.name for path in paths}
    assert {"argparse.py", "dataclasses.py", "topics.py"} <= names
    folders = {part for path in paths for part in path.parts[-3:-1]}
    assert not folders & {"test", "tests", "site-packages", "encodings", "__pycache__"}
    # What the limit is cut from: over the megabyte that the experiments rely on, with room.
    assert sum(path.stat().st_size for path in paths) > 4_000_000


def test_splits_are_whole_files_of_the_shares_and_size_asked_for():
    data = made(max_bytes=1_000_000)
    sizes = {name: len(getattr(data, name).text) for name in ("train", "val", "test")}
    assert sum(sizes.values()) == 1_000_000
    # A file gives at most a fiftieth, 20 000.
    assert sizes["val"] == pytest.approx(100_000, abs=20_000) and sizes["test"] == pytest.approx(100_000, abs=20_000)
    contents = [path.read_bytes()[:20_000] for path in source_files()]
    test = data.test.text.numpy().tobytes()
    assert any(len(content) > 0 and test.startswith(content) for content in contents)
    train = data.train.text.numpy().tobytes()
    for content in contents:
        if len(content) > 1000 and content in test:
            assert content not in train


def test_fingerprint_tells_texts_apart_and_not_orders():
    fingerprint = made().fingerprint()
    assert made(seed=5).fingerprint() == fingerprint
    assert made(split_seed=1).fingerprint() != fingerprint
    assert made(max_bytes=200_001).fingerprint() != fingerprint


def test_order_is_that_of_seed_and_epoch():
    def first(seed, epoch):
        loader = made(seed=seed).train_dataloader()
        loader.sampler.set_epoch(epoch)
        return next(iter(loader))["inputs"]

    assert torch.equal(first(0, 1), first(0, 1))
    assert not torch.equal(first(0, 1), first(0, 2))
    assert not torch.equal(first(0, 1), first(1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "stdlib_text: batch_size=0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "give less than 1 together"),
        ({"vocabulary_size": 255}, "vocabulary_size=255 came; there are 256 bytes"),
        ({"test_fraction": 0.0}, "stdlib_text: test_fraction=0.0"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        StdlibText(**options)
