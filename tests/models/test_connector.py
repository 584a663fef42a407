"""The connector against its formulas, written out by hand, and the number of its tokens."""

import math

import pytest
import torch
from torch.nn import functional as F

from glassworks.errors import ConfigError
from glassworks.models.connector import Connector, between, windows
from glassworks.models.settings.connector import Connector as Config


def made(grid, width=8, out=6, inner=10, seed=0, **settings):
    torch.manual_seed(seed)
    return Connector(Config(**settings), grid, width, out, inner)


def test_windows_are_read_row_by_row_and_end_at_the_edge():
    assert windows(3, 2).tolist() == [[0, 1, 3, 4], [2, -1, 5, -1], [6, 7, -1, -1], [8, -1, -1, -1]]
    assert windows(4, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert windows(2, 1).tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("grid", [4, 3])
def test_attention_pooling_is_its_formula(grid):
    """Window by window and head by head, in float64; biases are set, since they begin at 0."""
    connector = made(grid, heads=2).double()
    for parameter in connector.parameters():
        parameter.data += torch.randn_like(parameter) / 3
    pooling, project = connector.pooling, connector.project
    patches = torch.randn(2, grid * grid, 8, dtype=torch.float64)
    found = connector(patches)
    expected = torch.zeros_like(found)
    for image in range(2):
        for number, window in enumerate(windows(grid, 2).tolist()):
            x = torch.stack([patches[image, place] for place in window if place >= 0])
            query = x.mean(0) @ pooling.query.weight.T + pooling.query.bias
            key, value = (x @ m.weight.T + m.bias for m in (pooling.key, pooling.value))
            heads = []
            for head in (slice(0, 4), slice(4, 8)):
                weights = (key[:, head] @ query[head] / math.sqrt(4)).softmax(0)
                heads.append(weights @ value[:, head])
            pooled = torch.cat(heads) @ pooling.out.weight.T + pooling.out.bias
            gate, up = project.w1.weight @ pooled, project.w3.weight @ pooled
            expected[image, number] = project.w2.weight @ (gate * torch.sigmoid(gate) * up)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert found.shape[1] == connector.tokens == 4


def test_a_patch_beyond_the_edge_counts_nowhere():
    """Pooling of 3 x 3 patches: the last window is the last patch alone, which is its own mean and has all the attention."""
    pooling = made(3, heads=2).pooling
    patches = torch.randn(1, 9, 8)
    alone = pooling.out(pooling.value(patches[:, 8]))
    torch.testing.assert_close(pooling(patches)[:, 3], alone)


def test_frames_have_windows_of_their_own_and_share_weights_and_positions():
    """Windows of 4 by 4 patches with a side of 3, by hand; a frame is pooled as an image by a connector whose images have these windows.

    A side of 6 has the middles 0.5, 2.5 and 4.5 of images and 1 and 4 of frames, so a frame has 3/4 and 1/4 of the first two positions of an axis.
    """
    assert windows(4, 3).tolist() == [
        [0, 1, 2, 4, 5, 6, 8, 9, 10],
        [3, -1, -1, 7, -1, -1, 11, -1, -1],
        [12, 13, 14, -1, -1, -1, -1, -1, -1],
        [15, *[-1] * 8],
    ]
    both, images = made(6, heads=2, video_window=3, positions=True), made(6, heads=2, window=3, positions=True)
    assert (both.tokens, both.frame_tokens, images.frame_tokens) == (9, 4, None)
    with torch.no_grad():
        both.positions += torch.randn(9, 6)
        square = both.positions.view(3, 3, 6)
        rows = torch.stack([0.75 * square[0] + 0.25 * square[1], 0.25 * square[1] + 0.75 * square[2]])
        both_axes = torch.stack([0.75 * rows[:, 0] + 0.25 * rows[:, 1], 0.25 * rows[:, 1] + 0.75 * rows[:, 2]], 1)
        images.positions.copy_(both_axes.flatten(0, 1))
    images.load_state_dict({k: v for k, v in both.state_dict().items() if "positions" not in k}, strict=False)
    patches = torch.randn(2, 36, 8)
    torch.testing.assert_close(both(patches, video=True), images(patches))
    assert both(patches).shape == (2, 9, 6)


def test_positions_of_one_window_are_those_of_all_windows_of_a_frame():
    assert between(4, 4, 2).tolist() == [[1.0]] * 4
    torch.testing.assert_close(between(9, 2, 3).sum(1), torch.ones(9))


def test_the_windows_of_crops_reach_from_crop_to_crop_and_share_the_weights():
    """With the windows of one image they are its tokens without positions; a window over two crops is pooled as if its patches were one image."""
    connector = made(4, heads=2, norm=True, positions=True, tile_window=2)
    crops = torch.randn(2, 16, 8)
    inside = windows(4, 2)
    both = torch.cat([inside, inside + 16])
    torch.testing.assert_close(connector.tiles(crops, both), connector.content(crops).flatten(0, 1))
    across, part = torch.tensor([[3, 16, 7, 20]]), torch.tensor([[3, -1, 7, -1]])
    joined = torch.zeros(1, 16, 8)
    joined[0, [0, 1, 4, 5]] = crops.flatten(0, 1)[across[0]]
    torch.testing.assert_close(connector.tiles(crops, across), connector.content(joined)[0, :1])
    patches = F.layer_norm(crops[0, [3, 7]], [8])
    flat = connector.pooling.across(patches, torch.tensor([[0, 1]]))
    torch.testing.assert_close(connector.tiles(crops, part), connector.project(flat))


def test_linear_keeps_every_patch_and_pixel_shuffle_joins_those_of_a_window():
    patches = torch.randn(1, 16, 8)
    linear = made(4, kind="linear")
    torch.testing.assert_close(linear(patches), patches @ linear.project.weight.T)
    shuffle = made(4, kind="pixel_shuffle")
    joined = torch.cat([patches[0, place] for place in (2, 3, 6, 7)])
    torch.testing.assert_close(shuffle(patches)[0, 1], joined @ shuffle.project.weight.T)
    assert (linear.tokens, shuffle.tokens) == (16, 4)
    assert linear.project.bias is None and shuffle.project.bias is None


def test_new_weights_are_small_and_norm_and_positions_are_optional():
    connector = made(4, width=64, out=64, inner=256, norm=True, positions=True)
    for name, parameter in connector.named_parameters():
        if "norm" not in name and not name.endswith("bias"):
            assert abs(parameter.std().item() - 0.02) < 0.003, name
    patches = torch.randn(1, 16, 64)
    plain = connector.project(connector.pooling(F.layer_norm(patches, [64])))
    torch.testing.assert_close(connector(patches), plain + connector.positions)


def test_tokens_of_unit_scale_have_their_positions_at_the_same_scale():
    """Whatever the scale of the weights: the root mean square of a token is 1, and about 1 for its position."""
    connector = made(4, width=64, out=64, inner=256, initial="fan_in", positions=True, unit_scale=True)
    with torch.no_grad():
        connector.project.w2.weight.mul_(9)
    patches = torch.randn(3, 16, 64)
    tokens = connector.content(patches)
    plain = connector.project(connector.pooling(patches))
    torch.testing.assert_close(tokens, plain / plain.square().mean(-1, keepdim=True).add(torch.finfo().eps).sqrt())
    torch.testing.assert_close(connector(patches), tokens + connector.positions)
    assert 0.8 < connector.positions.square().mean().sqrt() < 1.2


def test_weights_by_fan_in_keep_the_scale_of_their_input():
    connector = made(4, width=64, out=64, inner=256, initial="fan_in")
    assert abs(connector.project.w1.weight.std().item() - 64**-0.5) < 0.01
    assert abs(connector.project.w2.weight.std().item() - 256**-0.5) < 0.01
    assert not connector.pooling.value.bias.any()


def test_what_does_not_divide_is_one_line():
    with pytest.raises(ConfigError, match=r"^model\.connector\.window: 2 does not divide the 9 patches of a side"):
        made(9, kind="pixel_shuffle")
    with pytest.raises(ConfigError, match=r"^model\.connector\.heads: 3 does not divide the width 8 of the tower$"):
        made(4, heads=3)


def test_positions_beside_fan_in_begin_with_a_vector_for_each_row_and_each_column():
    torch.manual_seed(0)
    settings = {"heads": 2, "positions": True, "initial": "fan_in", "video_window": 3}
    connector = Connector(Config(**settings), 9, 8, 64, 32)
    square = connector.positions.detach().view(5, 5, 64)
    across = square[:, 1:] - square[:, :-1]
    torch.testing.assert_close(across, across[:1].expand_as(across))
    assert 0.3 < square.std() < 0.55, "the sum of two vectors of a standard deviation of 0.3"
    wide = Connector(Config(**settings), 9, 8, 1024, 32).positions.detach().view(5, 5, 1024)
    for line in (wide[0], wide[:, 0]):  # two steps lead the same way, unlike those between unrelated vectors
        assert F.cosine_similarity(line[1] - line[0], line[4] - line[3], dim=0) > 0.1
    small = Connector(Config(**settings | {"initial": "small"}), 9, 8, 64, 32)
    assert small.positions.std() < 0.03
