import threading

import pytest
import torch
from torch import nn

from qcore.runtime.convolution import Layouts, PackedConv, has_packed_convolution


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def test_a_layout_belongs_to_a_shape_and_a_number_of_threads(three_threads):
    layouts, built = Layouts(), []

    def get(shape):
        return layouts.get(shape, lambda: built.append((shape, torch.get_num_threads())) or torch.ones(1))

    def on_one_thread():
        torch.set_num_threads(1)
        torch.get_num_threads()
        get((4, 4))
        get((4, 4))

    get((4, 4))
    worker = threading.Thread(target=on_one_thread)
    worker.start()
    worker.join()
    get((4, 4))
    assert built == [((4, 4), 3), ((4, 4), 1)]


def test_only_the_layouts_used_last_are_kept():
    layouts, built = Layouts(), []
    for shape in (1, 2, 3, 1):
        layouts.get(shape, lambda shape=shape: built.append(shape) or torch.ones(1))
    assert built == [1, 2, 3, 1]


@pytest.mark.skipif(not has_packed_convolution(), reason="this processor has no packed convolution")
def test_a_team_and_a_worker_convolve_alike(three_threads):
    torch.manual_seed(0)
    conv = nn.Conv2d(96, 32, 1).eval().requires_grad_(False)
    image = torch.randn(1, 96, 12, 12).contiguous(memory_format=torch.channels_last)
    packed, results = PackedConv(conv, torch.float32), []

    def convolve():
        torch.set_num_threads(1)
        results.append(packed(image))

    results.append(packed(image))
    worker = threading.Thread(target=convolve)
    worker.start()
    worker.join()
    for result in results:
        torch.testing.assert_close(result, conv(image), atol=1e-5, rtol=1e-5)
