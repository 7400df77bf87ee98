import math

import torch

from lightning_losses.losses import NegativeCosine

GENERATOR = torch.Generator().manual_seed(0)
P, P_B, Z, Z_B = (torch.randn(5, 3, dtype=torch.float64, generator=GENERATOR) for _ in range(4))


def test_value_from_the_definition():
    each = []
    for p, p_b, z, z_b in zip(P, P_B, Z, Z_B, strict=True):
        cosines = [float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for a, b in ((p, z_b), (p_b, z))]
        each.append(-0.5 * sum(cosines))
    expected = torch.tensor(each, dtype=torch.float64)
    torch.testing.assert_close(NegativeCosine(reduction="none")(P, P_B, Z, Z_B), expected)
    torch.testing.assert_close(NegativeCosine("byol", reduction="sum")(P, P_B, Z, Z_B), (4 + 4 * expected).sum())


def test_lengths_do_not_matter_and_nothing_has_no_direction():
    huge, tiny = (P * 1e30).float(), (P_B * 1e-30).float()
    torch.testing.assert_close(
        NegativeCosine()(huge, tiny, Z.float(), Z_B.float()), NegativeCosine()(P, P_B, Z, Z_B).float()
    )
    nothing = torch.zeros(1, 3, requires_grad=True)
    value = NegativeCosine()(nothing, nothing, Z[:1].float(), Z_B[:1].float())
    assert value.item() == 0 and not torch.autograd.grad(value, nothing)[0].any()


def test_without_constants_the_embeddings_collapse():
    """What the targets are constants for, in the smallest network in which it shows."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 4, generator=generator)

    def spread(constant):
        torch.manual_seed(0)
        encoder, predictor = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
        optimizer = torch.optim.SGD([*encoder.parameters(), *predictor.parameters()], 2.0)
        for _ in range(60):
            z, z_b = (encoder(inputs + 0.3 * torch.randn(64, 4, generator=generator)) for _ in range(2))
            if constant:
                value = NegativeCosine()(predictor(z), predictor(z_b), z, z_b)
            else:
                value = -(
                    torch.cosine_similarity(predictor(z), z_b) + torch.cosine_similarity(predictor(z_b), z)
                ).mean()
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        return torch.nn.functional.normalize(encoder(inputs), dim=-1).std(dim=0).mean().item()

    # 1 / sqrt(4) for directions that are spread evenly.
    assert spread(constant=True) > 0.3 > 0.1 > spread(constant=False)
