"""What the tests of code on a GPU share: exact products, a step that may not wait, a captured one, fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode


@pytest.fixture(scope="session")
def fake_cuda():
    """Tensors that are only described as lying on a GPU can be indexed on this machine."""
    try:
        with FakeTensorMode():
            torch.empty(2, device="cuda")[torch.empty(1, dtype=torch.int64, device="cuda")]
    except RuntimeError:
        pytest.skip("this torch asks a driver of fake tensors (2.6)")


@pytest.fixture
def full_precision():
    """Products of float32 numbers are not TF32's."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def assert_the_host_never_waits(step):
    """The first step compiles and allocates; an error is raised where the second waits."""
    step()
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def assert_captured_equals_eager(step, *inputs):
    """A step's tensors, captured and replayed on inputs turned around in place, are those of a step on these."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        for tensor in inputs:
            tensor.copy_(tensor.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(captured, step(), strict=True):
        torch.testing.assert_close(one, other)
