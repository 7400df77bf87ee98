"""How many graphs the compiler makes of a function."""

import torch


def assert_one_graph(function, calls):
    """Of calls whose sizes differ the compiler makes one graph, which gives what the function gives."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=count)
    for arguments in calls:
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    assert len(graphs) == 1
