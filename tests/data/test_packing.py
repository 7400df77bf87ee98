import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_losses.data.packing import IGNORED, pack_documents
from lightning_losses.data.stdlib_docstrings import PackedDataset, StdlibDocstrings
from lightning_losses.data.stdlib_text import docstrings, source_files

# No two tokens are alike, so that a token says where it came from; 0 fills rows up.
LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(lambda lengths: max(lengths) > 1)


def numbered(lengths):
    ends = torch.tensor(lengths).cumsum(0).tolist()
    return [torch.arange(end - length, end) + 1 for end, length in zip(ends, lengths, strict=True)]


@given(LENGTHS, st.integers(1, 8), st.booleans())
def test_every_token_is_predicted_once_from_its_own_document(lengths, block_length, packed):
    documents = numbered(lengths)
    rows = pack_documents(documents, block_length, packed)
    kept = rows.target != IGNORED
    pairs = sorted(zip(rows.inputs[kept].tolist(), rows.target[kept].tolist(), strict=True))
    assert pairs == [(t, t + 1) for document in documents for t in document[:-1].tolist()]
    # Tokens of one document stand side by side in their order, and what fills a row up is no target.
    for inputs, of in zip(rows.inputs, rows.documents, strict=True):
        for number in of.unique().tolist():
            places = (of == number).nonzero().flatten()
            assert torch.equal(places, torch.arange(places[0], places[-1] + 1))
            if number >= 0:
                assert torch.equal(inputs[places], torch.arange(inputs[places[0]], inputs[places[-1]] + 1))
    assert not kept[rows.documents < 0].any()


@given(LENGTHS, st.integers(2, 8))
def test_rows_are_filled(lengths, block_length):
    documents = numbered(lengths)
    rows, alone = (pack_documents(documents, block_length, packed) for packed in (True, False))
    assert (alone.documents <= 0).all()
    assert len(rows.inputs) <= len(alone.inputs)
    # Best fit never leaves two rows that one could hold.
    used = (rows.documents >= 0).sum(dim=1).sort().values
    assert len(used) < 2 or used[0] + used[1] > block_length


@pytest.mark.parametrize("documents", [[], [torch.tensor([1])]])
def test_nothing_to_predict_is_refused(documents):
    with pytest.raises(ValueError, match="pack_documents: .* none of at least 2 tokens"):
        pack_documents(documents, 4)


def test_batches_are_int64_and_ignore_boundaries():
    batch = PackedDataset([b"abc", b"\xff\xfe"], block_length=6).__getitems__([0])
    assert {name: tensor.dtype for name, tensor in batch.items()} == dict.fromkeys(batch, torch.int64)
    assert batch["target"].tolist() == [[98, 99, IGNORED, 254, IGNORED, IGNORED]]


def test_docstrings_of_a_file(tmp_path):
    file = tmp_path / "a.py"
    file.write_text(
        '''"""Of the file."""\nclass A:\n    """Of\n    A."""\n    def f(self): "Of f."\n\ndef g(): pass\n'''
    )
    assert docstrings(file) == ["Of the file.", "Of\nA.", "Of f."]


def test_every_source_can_be_read_and_splits_share_no_document():
    data = StdlibDocstrings(batch_size=4, block_length=256, max_bytes=100_000)
    data.setup()
    whole = {text for path in source_files()[:40] for text in docstrings(path)}
    assert len(whole) > 100
    assert 0.95 < data.train.filled <= 1 and len(data.train.text) + len(data.val.text) + len(data.test.text) > 95_000
    other = StdlibDocstrings(batch_size=4, block_length=256, max_bytes=100_000, packed=False)
    other.setup()
    assert data.fingerprint() == other.fingerprint() and len(other.train) > 1.5 * len(data.train)
